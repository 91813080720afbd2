"""Answers to the questions of the page: which patches are visible, and panels of what is seen."""

from functools import partial
from threading import Lock
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fcmae.reconstruction import VIEWS
from finetune.exploring.alike import alike
from finetune.exploring.drawing import coloured, pillow, url_of
from finetune.exploring.explored import Explored
from finetune.exploring.feature_maps import most_varied
from finetune.exploring.neighbours import Neighbours
from finetune.exploring.pictures import Picture, Pictures
from finetune.exploring.question import Question
from finetune.exploring.rendering import rendered
from finetune.labels.prediction import ranked

CHANNELS = 12  # whose maps are shown
MATCHES = 6  # images with similar patches
TOP = 5  # classes


class Answers:
    """Answers questions, one at a time.

    Args:
        explored: The checkpoint.
        device: What computes.
        pictures: What may be asked about.
        neighbours: Patches of the data set, or None.
    """

    def __init__(
        self,
        explored: Explored,
        device: torch.device,
        pictures: Pictures,
        neighbours: Neighbours | None,
    ) -> None:
        self.explored = explored
        self.device = device
        self.pictures = pictures
        self.neighbours = neighbours
        self.lock = Lock()

    def __call__(self, encoded: bytes) -> dict[str, str]:
        """Answer a question, which is JSON.

        Returns:
            `visible`, 0 or 1 for each patch; `shown`, the address of a picture of the visible ones;
            `name` of the picture; and `html`, the panels.

        Raises:
            ValueError: It is no question, or about what is not there or cannot be read.
        """
        rows, columns = self.explored.grid
        question = Question.of_json(encoded, rows * columns)
        visible = question.visible_of(rows * columns)
        with self.lock:
            return self.seen(question, self.pictures[question.picture], visible)

    def warm_up(self) -> None:
        """Answer once about nothing, so that what is compiled at first use keeps nobody waiting."""
        metadata = self.explored.metadata
        rows, columns = self.explored.grid
        blank = torch.zeros(metadata.in_chans, *metadata.image_size)
        question = Question(picture="", stage=4, patch=0)
        self.seen(question, Picture(blank, "", None), torch.ones(rows * columns, dtype=torch.bool))

    def seen(
        self, question: Question, picture: Picture, visible: Bool[Tensor, " n"]
    ) -> dict[str, str]:
        """What is seen of a picture, see `__call__`."""
        explored = self.explored
        image, mask = picture.image.to(self.device), visible.to(self.device)
        stages = explored.stages(image[None], mask[None])
        views = explored.views(image, mask, stages)
        urls = [url_of(pillow(view)) for view in views]
        stage = stages[question.stage - 1][0]
        maps = most_varied(stage, mask, explored.grid, CHANNELS)
        html = rendered(
            "panels.html",
            views=list(zip(VIEWS, urls, strict=True)) if explored.decoder else None,
            stage=question.stage,
            channels=stage.shape[-1],
            maps=[(channel.channel, coloured(channel.values)) for channel in maps],
            patch=question.patch,
            alike=self.alike(question, picture, stage, mask),
            compared=0 if self.neighbours is None else len(self.neighbours.samples),
            grid=explored.grid,
            size=explored.metadata.image_size,
            task=explored.task,
            answers=None if explored.task is None else self.ranked(image),
        )
        marks = "".join("1" if seen else "0" for seen in visible.tolist())
        return {"visible": marks, "shown": urls[1], "name": picture.name, "html": html}

    def ranked(self, image: Float[Tensor, "c h w"]) -> list[tuple[str, float]]:
        """The names with the largest answers."""
        assert self.explored.task is not None
        return ranked(self.explored.task, self.explored.answers(image), TOP)

    def alike(
        self,
        question: Question,
        picture: Picture,
        stage: Float[Tensor, "v s t d"],
        visible: Bool[Tensor, " n"],
    ) -> Any:
        """What is like the chosen patch; None without one, or if it is hidden."""
        patch = question.patch
        if patch is None or not visible[patch]:
            return None
        if self.neighbours is None:
            return alike(stage, visible, self.explored.grid, patch, lambda _: [])
        at = question.stage - 1
        nearest = partial(self.neighbours.nearest, stage=at, most=MATCHES, but=picture.sample)
        return alike(stage, visible, self.explored.grid, patch, nearest)
