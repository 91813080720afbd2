"""What a segmenter is measured by: a confusion matrix over all pixels, and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from matplotlib import colormaps
from torch import Tensor, nn

from data.bad_samples import BadSample
from data.config import IGNORED
from data.transforms import Normalise
from fcmae.run.compiling import eager
from fcmae.sheet import save_views
from finetune.labels.confusion import confused_pixels, counted
from finetune.labels.inference import Inference
from finetune.labels.metrics import rows

SHOWN = 8  # samples in the picture


@torch.no_grad()
def confusion_of(
    model: nn.Module, inference: Inference, classes: int
) -> tuple[Int[Tensor, "k k"], int]:
    """Pixels by true class (rows) and answer (columns), and how many samples were bad.

    Every process counts its share, batch by batch; each gets the sum. Bad samples count nowhere,
    since all of their mask is ignored.

    Raises:
        ValueError: too many bad samples, or answers that are not finite.
    """
    device = inference.accelerator.device
    matrix = torch.zeros(classes, classes, dtype=torch.long, device=device)
    bad = list[BadSample]()
    forward = inference.frozen(model, model)
    for x, batch in inference.batches():
        truth = batch["label"].to(device).long()
        answers = forward(x)
        inference.refuse_not_finite(answers, batch)
        known = truth != IGNORED
        matrix += counted(truth[known], answers.argmax(1)[known], classes).to(device)
        bad += batch["bad"]
    skipped = inference.count(bad)
    matrix = inference.accelerator.reduce(matrix)
    assert isinstance(matrix, Tensor)
    return matrix.cpu(), skipped


def of_pixels(names: Sequence[str], matrix: Int[Tensor, "k k"]) -> dict[str, Any]:
    """mIoU, pixel accuracy, under `per_class` the IoU of each class and how many pixels it has, and
    under `confusion` the one matrix of this run, see `finetune.labels.confusion`.

    IoU = pixels that are of a class and answered as it / pixels that are one or the other. A class
    that is neither there nor answered has none, and does not count in the mean.
    """
    correct = matrix.diag()
    truth = matrix.sum(1)
    union = truth + matrix.sum(0) - correct
    iou = correct / union
    columns = {
        "iou": [value if some else None for value, some in zip(iou.tolist(), union, strict=True)],
        "pixels": truth.tolist(),
    }
    return {
        "miou": iou.nanmean().item(),
        "pixel_accuracy": (correct.sum() / matrix.sum()).item(),
        "per_class": rows(names, columns),
        "confusion": [confused_pixels(names, matrix)],
    }


@torch.no_grad()
def draw_samples(path: Path, model: nn.Module, inference: Inference) -> None:
    """The first samples as a picture: image, truth, answer; ignored pixels are white."""
    images = inference.images
    metadata = inference.metadata
    device = inference.accelerator.device
    items = [images[(0, i)] for i in range(min(SHOWN, len(images)))]
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(device)
    x = normalise(torch.stack([item["image"] for item in items]).to(device))
    truth = torch.stack([item["label"] for item in items])
    with eager():  # fewer images than a batch
        answers = model(x).argmax(1).byte()
    pixels = normalise.inverse(x).cpu()
    colours = pixels[:, :3] if metadata.in_chans >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    views = torch.stack([colours, paint(truth), paint(answers.cpu())], dim=1)
    save_views(views, path, ("image", "truth", "answer"))


def paint(masks: UInt8[Tensor, "b h w"]) -> Float[Tensor, "b 3 h w"]:
    """Masks in colours, one for each class; after twenty classes they repeat."""
    palette = torch.tensor(colormaps["tab20"](torch.arange(256) % 20))[:, :3].float()
    palette[IGNORED] = 1
    return palette[masks.long()].permute(0, 3, 1, 2)
