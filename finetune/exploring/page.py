"""The page itself: its addresses, and what is answered under each."""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from fcmae.run.computing import accelerator_or_cpu
from fcmae.run.terminal import line_of, say
from fcmae.run.waiting import waiting
from fcmae.weights.transform import Transform
from finetune.exploring.answers import Answers
from finetune.exploring.config import ExploreConfig
from finetune.exploring.data_images import DataImages
from finetune.exploring.drawing import bar, pillow, png
from finetune.exploring.explored import Explored, load
from finetune.exploring.neighbours import neighbours_of
from finetune.exploring.pictures import MOST_BYTES, SAMPLE, Pictures, refuse_bytes
from finetune.exploring.rendering import TEMPLATES, rendered

THUMBNAILS = 24  # of the data set at a time
MOST_QUESTION = 100_000  # bytes
BROKEN = Image.new("L", (8, 8), 128)  # in place of an image that cannot be read


def page(config: ExploreConfig) -> Starlette:
    """Load a checkpoint and a data set, and make the page on them.

    Raises:
        OSError: The checkpoint or the data cannot be read.
        ValueError: The checkpoint holds no encoder of this project, or the data no images.
    """
    device = accelerator_or_cpu()
    with waiting(f"loading {config.checkpoint}"):
        explored = load(config.checkpoint, device, say)
    data = DataImages(config, explored.metadata) if config.data else None
    neighbours = None
    if data is not None and config.compare:
        neighbours = neighbours_of(explored, data.spread(config.compare))
    pictures = Pictures(explored.metadata, config.fitted(explored.metadata), data)
    answers = Answers(explored, device, pictures, neighbours)
    with waiting("preparing the first answer"):
        answers.warm_up()
    return Page(explored, pictures, answers).app()


class Page:
    """What is answered under each address. None of them has a part that names a file.

    Args:
        explored: The checkpoint.
        pictures: What may be asked about.
        answers: Answers questions about them.
    """

    def __init__(self, explored: Explored, pictures: Pictures, answers: Answers) -> None:
        self.explored = explored
        self.pictures = pictures
        self.answers = answers
        self.bar = png(bar())

    def app(self) -> Starlette:
        """The application that a server serves."""
        return Starlette(
            routes=[
                Route("/", self.index),
                Route("/explore.css", partial(asset, "explore.css")),
                Route("/explore.js", partial(asset, "explore.js")),
                Route("/bar.png", self.colours),
                Route("/images", self.images),
                Route("/thumbnail", self.thumbnail),
                Route("/answer", self.answer, methods=["POST"]),
                Route("/drop", self.drop, methods=["POST"]),
            ]
        )

    async def index(self, _: Request) -> Response:
        """The page, without a picture yet."""
        metadata = self.explored.metadata
        rows, columns = self.explored.grid
        n = rows * columns
        html = rendered(
            "page.html",
            metadata=metadata,
            grid=(rows, columns),
            patch_size=self.explored.encoder.patch_size,
            ratio=round(100 * self.explored.ratio),
            most=max(share for share in range(100) if int(n * (1 - share / 100)) > 0),
            images=0 if self.pictures.data is None else len(self.pictures.data),
            megabytes=MOST_BYTES // 10**6,
            bytes=MOST_BYTES,
        )
        return HTMLResponse(html)

    async def colours(self, _: Request) -> Response:
        """The bar of colours."""
        return Response(self.bar, media_type="image/png")

    async def images(self, request: Request) -> Response:
        """Buttons of some images of the data set."""
        count = 0 if self.pictures.data is None else len(self.pictures.data)
        last = max(0, math.ceil(count / THUMBNAILS) - 1)
        at = min(number(request, "page"), last)
        first = at * THUMBNAILS
        numbers = range(first, min(count, first + THUMBNAILS))
        html = rendered("images.html", numbers=numbers, count=count, at=at, last=last, kind=SAMPLE)
        return HTMLResponse(html)

    async def thumbnail(self, request: Request) -> Response:
        """An image of the data set, as the model takes it; grey if it cannot be read."""
        name = f"{SAMPLE}{number(request, 'sample')}"
        content = await run_in_threadpool(self.small, name)
        return Response(content, media_type="image/png")

    def small(self, name: str) -> bytes:
        """A picture as PNG."""
        shown = BROKEN
        with suppress(ValueError):
            image = self.pictures[name].image
            shown = pillow(Transform(self.explored.metadata).inverse(image).clamp(0, 1))
        return png(shown)

    async def answer(self, request: Request) -> Response:
        """The answer to a question, see `Answers`."""
        return await told(request, MOST_QUESTION, self.answers)

    async def drop(self, request: Request) -> Response:
        """The name of a picture that was dropped on the page."""
        return await told(
            request, MOST_BYTES, lambda encoded: {"picture": self.pictures.drop(encoded)}
        )


async def told(
    request: Request, most: int, answer: Callable[[bytes], dict[str, str]]
) -> JSONResponse:
    """Answer what a request brings, or tell in a line why not.

    Args:
        request: With a body, which is read up to `most` bytes alone.
        most: How many bytes it may have.
        answer: Makes the answer, in a thread of its own.
    """
    encoded = bytearray()
    try:
        length = request.headers.get("content-length", "0")
        refuse_bytes(int(length), most)
        async for part in request.stream():
            encoded += part
            refuse_bytes(len(encoded), most)
    except ValueError as error:
        return JSONResponse({"error": line_of(error)}, 413)
    try:
        return JSONResponse(await run_in_threadpool(answer, bytes(encoded)))
    except (ValueError, ModuleNotFoundError) as error:  # of the picture, not of the request
        return JSONResponse({"error": line_of(error)})


async def asset(name: Literal["explore.css", "explore.js"], _: Request) -> Response:
    """A file that the page consists of."""
    return FileResponse(TEMPLATES / name)


def number(request: Request, name: str) -> int:
    """A number in the address of a request; 0 if it is none.

    Args:
        request: The request.
        name: Of the number.
    """
    word = request.query_params.get(name, "")
    return int(word) if word.isdecimal() and len(word) < 16 else 0
