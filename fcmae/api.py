"""What a few lines of Python do: load a model, compute features, reconstruct, pretrain.

    >>> import fcmae
    >>> short = {"epochs": 2, "batch_size": 4}
    >>> changes = {"data.train": "photos/", "optim": short, "run.dir": "runs/mine"}
    >>> run = fcmae.pretrain("small", changes)  # doctest: +ELLIPSIS
    photos: 8 images become shards, once, in ...
    >>> run.metrics["step"]
    [4]
    >>> model, transform = fcmae.load("runs/mine")
    >>> model(transform("photos/1.jpg")[None]).shape
    torch.Size([1, 320])
    >>> fcmae.features("runs/mine", ["photos/1.jpg", "photos/2.jpg"]).shape
    torch.Size([2, 320])
    >>> fcmae.reconstruct("runs/mine", "photos/1.jpg").pasted.size
    (128, 128)

Everything else is a command: `fcmae` lists them.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from fcmae.cli import start
from fcmae.masking import draw_visible
from fcmae.reconstruction import VIEWS
from fcmae.reconstruction import reconstruct as views_of
from fcmae.run.computing import accelerator_or_cpu
from fcmae.run.config import flags_of
from fcmae.run.metrics import read_metrics
from fcmae.sheet import sheet
from fcmae.weights.autoencoder import load_autoencoder
from fcmae.weights.files import read_weights
from fcmae.weights.metadata import HeadPool
from fcmae.weights.pooling import pooled
from fcmae.weights.timm_models import as_timm, load_timm
from fcmae.weights.timm_protocols import TimmModel
from fcmae.weights.transform import Picture, Transform


def load(source: str | Path) -> tuple[nn.Module, Transform]:
    """Load an encoder as timm's model, in evaluation mode, and the transform of its pictures.

    Args:
        source: a run, a `step_*` directory, a file of weights or a directory of the hub;
            `timm:NAME` or `hf:ORG/NAME`, which are fetched.

    Returns:
        The model, with the classifier if the weights have one, and the transform, which turns a
        picture into a tensor `[c, h, w]`; `transform.metadata` tells what the weights do.

    Raises:
        OSError: the source cannot be read or fetched.
        ValueError: its tensors are not those of one whole encoder, or nothing tells its images.
    """
    weights = read_weights(source)
    metadata = weights.told_metadata(source)
    return as_timm(weights.tensors, metadata).eval(), Transform(metadata)


@torch.inference_mode()
def features(
    source: str | Path,
    pictures: Picture | Iterable[Picture],
    *,
    batch_size: int = 64,
    pool: HeadPool = "last",
) -> Float[Tensor, "n d"]:
    """Compute the features of pictures: the mean over the positions of the last stage.

    Of a vision transformer it is the mean over the tokens of patches.

    They are those of `fcmae embed`. On a GPU, if there is one; the result is on the CPU.

    Args:
        source: what `load` takes.
        pictures: one picture, or several: see `fcmae.weights.transform.Transform`.
        batch_size: how many go through the model at a time.
        pool: last for that mean; grid2 and grid3 for the means of 2 x 2 and 3 x 3 cells of the map,
            side by side, which tell where things are.

    Raises:
        OSError: the source or a picture cannot be read.
        ValueError: see `load`; a picture has another number of channels than the model; or the map
            has fewer positions than the grid.
    """
    model, metadata = load_timm(source, say=lambda _: None)
    transform = Transform(metadata)
    device = accelerator_or_cpu()
    assert isinstance(model, TimmModel)
    model.to(device).eval()
    one = isinstance(pictures, str | Path | Image.Image | np.ndarray | Tensor)
    batch = torch.stack([transform(each) for each in ([pictures] if one else pictures)])
    rows = [
        pooled(model, model.forward_features(part.to(device)), pool).cpu()
        for part in batch.split(batch_size)
    ]
    return torch.cat(rows)


@dataclass(frozen=True)
class Reconstruction:
    """What a masked autoencoder makes of a picture: four pictures of the size of the model.

    Each is an image of Pillow; `numpy.asarray` makes an array `[h, w, c]` of it. Of pictures with
    more than three channels, the first three are shown. A notebook shows all four side by side,
    labelled.
    """

    original: Image.Image
    """The picture as the model takes it."""
    visible: Image.Image
    """The patches that the encoder sees; grey elsewhere."""
    prediction: Image.Image
    """The prediction of the hidden patches, with the mean and deviation of the true ones."""
    pasted: Image.Image
    """The visible patches and the prediction together."""

    def side_by_side(self) -> Image.Image:
        """Draw the four pictures from left to right, labelled, at least 512 pixels wide."""
        return sheet([[self.original, self.visible, self.prediction, self.pasted]], [VIEWS])

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.side_by_side().save(file, "PNG")
        return file.getvalue()


@torch.inference_mode()
def reconstruct(source: str | Path, picture: Picture, *, seed: int = 0) -> Reconstruction:
    """Hide patches of a picture, and predict them.

    Args:
        source: a run or a `step_*` directory, which has the decoder, too.
        picture: see `fcmae.weights.transform.Transform`.
        seed: of the choice of patches; their share is that of the run.

    Raises:
        OSError: the source or the picture cannot be read.
        ValueError: the source is no pretraining run; or the picture has another number of channels.
    """
    model, metadata = load_autoencoder(source)
    transform = Transform(metadata)
    images = transform(picture)[None]
    generator = torch.Generator().manual_seed(seed)
    visible = draw_visible(1, model.n, model.ratio, generator=generator)
    _, prediction = model(images, visible)
    (views,) = transform.inverse(views_of(images, visible, prediction, model.patch_size))
    shown = views.clamp(0, 1)[:, :3] if metadata.in_chans >= 3 else views.clamp(0, 1)[:, :1]
    return Reconstruction(*(to_pil_image(view) for view in shown))


@dataclass(frozen=True)
class Run:
    """A pretraining run, by its directory."""

    directory: Path

    @property
    def metrics(self) -> dict[str, list[Any]]:
        """The lines of metrics.jsonl as columns, such as `step` and `loss`, for any table library.

        Raises:
            OSError: there are none.
        """
        lines = read_metrics(self.directory)
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: [line.get(name) for line in lines] for name in names}

    @property
    def pictures(self) -> list[Path]:
        """The pictures of reconstructions, in the order of their steps."""
        return sorted((self.directory / "pictures").glob("*.png"))

    def load(self) -> tuple[nn.Module, Transform]:
        """Load the encoder, as `fcmae.load` does."""
        return load(self.directory)

    def reconstruct(self, picture: Picture, *, seed: int = 0) -> Reconstruction:
        """Hide patches of a picture and predict them, as `fcmae.reconstruct` does."""
        return reconstruct(self.directory, picture, seed=seed)


def pretrain(recipe: str | Path, changes: Mapping[str, Any] | None = None) -> Run:
    """Pretrain in this process, as `fcmae pretrain RECIPE` does, and resume where that would.

    Args:
        recipe: the path of a recipe, or the name of one that the package brings, such as "small".
        changes: values in place of the recipe's, nested or by dotted names:
            `{"data.train": "photos/", "optim": {"epochs": 50}}`.

    Returns:
        The run.

    Raises:
        OSError: the recipe or the data cannot be read, or the run directory cannot be written.
        ValueError: a value is not allowed, or the run directory holds another run.
        SystemExit: a name or a type is wrong, which is printed; or a signal stopped the run, which
            is saved.
    """
    words = [str(recipe), *flags_of(changes or {})]
    return Run(Path(start("pretrain", words)))
