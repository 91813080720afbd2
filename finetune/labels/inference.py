"""What a model says of every sample of shards: in order, once, by all processes together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data.bad_samples import BadSample, BadSamples
from data.config import FittedConfig
from data.dataset import CLASS, Crops, JointCrops, Samples, ShardImages
from data.decode import Picture, open_image
from data.fitting import Fitted
from data.pipeline import eval_loader
from data.shards.samples import ShardSamples
from data.targets import Target
from data.transforms import Normalise
from data.values import Statistics
from fcmae.run.waiting import counted
from fcmae.weights.metadata import Metadata
from finetune.labels.config import InferenceConfig
from finetune.models.compiled import Forward, frozen


def images_for(
    samples: ShardSamples,
    config: InferenceConfig,
    metadata: Metadata,
    *,
    seed: int = 0,
    crop: Crops | None = None,
    joint_crop: JointCrops | None = None,
    target: Target = CLASS,
    group: str = "",
) -> ShardImages:
    """The images of samples as a model takes them.

    Args:
        samples: that hold the images.
        config: how they are read.
        metadata: of the model's weights.
        seed: of random crops.
        crop: a random crop; None for the whole picture as `config.fit` says.
        joint_crop: of images and masks, in place of `crop`.
        target: their labels.
        group: the field of the json member that related samples share; empty for none.
    """
    return ShardImages(
        samples,
        size=metadata.image_size,
        in_chans=metadata.in_chans,
        pixels=config.fitted(metadata),
        statistics=Statistics(metadata.mean, metadata.std),
        image=config.image,
        seed=seed,
        crop=crop or Fitted(config.fit, metadata.mean),
        joint_crop=joint_crop,
        target=target,
        group=group,
    )


@dataclass(frozen=True)
class Outputs:
    """What a model gives for each sample; the rows of samples that are not whole have no meaning.

    `groups` are the items' `group`, see `data.dataset.ShardImages`.
    """

    rows: Float[Tensor, "n d"]
    labels: Tensor
    whole: Bool[Tensor, " n"]
    groups: list[str | None]


@dataclass(frozen=True)
class Inference:
    """Samples, and how a model takes them; every method is called by all processes.

    Args:
        images: all that is looked at.
        metadata: how the model takes images.
        config: how they are read.
        accelerator: of the processes that share the work.
        doing: what the terminal shows while they run through the model.
    """

    images: Samples
    metadata: Metadata
    config: InferenceConfig
    accelerator: Accelerator
    doing: str = "extracting features"

    def frozen(self, model: nn.Module, forward: Forward) -> Forward:
        """The forward pass of a model for these samples, see `finetune.models.compiled.frozen`."""
        return frozen(
            model,
            forward,
            images=len(self.images) // self.accelerator.num_processes,
            batch_size=self.config.batch_size,
            device=self.accelerator.device,
            say=self.accelerator.print,
        )

    @torch.no_grad()
    def outputs(self, model: nn.Module, forward: Forward) -> Outputs:
        """The outputs for all samples, on the CPU, for every process all of them.

        Of a picture in tiles, it is the mean of their outputs.

        Args:
            model: on its device.
            forward: of this model.

        Raises:
            ValueError: too many bad samples, or outputs that are not finite.
        """
        world = self.accelerator.num_processes
        rows = list[Tensor]()
        labels = list[Tensor]()
        whole = [torch.zeros(0, dtype=torch.bool)]  # some process may have no sample
        groups = list[str | None]()
        bad = list[BadSample]()
        forward = self.frozen(model, forward)
        for x, batch in self.batches():
            rows.append(means_of(tiled(forward, x, self.config.batch_size), batch["tiles"]).cpu())
            labels.append(batch["label"])
            whole.append(batch["whole"])
            groups += batch["group"]
            bad += batch["bad"]
        order = torch.cat([torch.arange(r, len(self.images), world) for r in range(world)])
        order = order.argsort()
        x, y, kept = (torch.cat(gather_object(part))[order] for part in (rows, labels, whole))
        gathered = gather_object(groups)
        self.count(bad)
        refuse_not_finite(x, kept, self.images.name)
        return Outputs(x, y, kept, [gathered[i] for i in order.tolist()])

    def batches(self) -> Iterator[tuple[Float[Tensor, "b c h w"], dict[str, Any]]]:
        """The share of this process: normalised images on its device, and the batch they are of."""
        device = self.accelerator.device
        loader = eval_loader(
            self.images,
            batch_size=self.config.batch_size,
            workers=self.config.workers,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        normalise = Normalise(self.metadata.mean, self.metadata.std, self.metadata.in_chans)
        normalise.to(device)
        for batch in counted(loader, self.doing, len(loader), "batches"):
            yield normalise(batch["image"].to(device)), batch

    def refuse_not_finite(self, rows: Float[Tensor, "b ..."], batch: dict[str, Any]) -> None:
        """Check what the model gives for a batch, see the function of this name.

        Raises:
            ValueError: a sample that is whole has outputs that are not finite.
        """
        places = batch["sample"].tolist()
        refuse_not_finite(rows, batch["whole"], lambda i: self.images.name(places[i]))

    def count(self, bad: list[BadSample]) -> int:
        """Name the bad samples that the processes met, and count them.

        Raises:
            ValueError: too many.
        """
        met = BadSamples(len(self.images), self.config.max_bad_fraction)
        for sample in met.add(gather_object(bad)):
            self.accelerator.print(f"skipped {sample}")
        return len(met)


def tiled(
    forward: Callable[[Tensor], Tensor], images: Float[Tensor, "n c h w"], most: int
) -> Float[Tensor, "n ..."]:
    """The outputs for images, of which there may be more than a batch has samples.

    Args:
        forward: of the model.
        images: one or more of each sample.
        most: how many the model takes at a time.
    """
    return torch.cat([forward(part).float() for part in images.split(most)])


def means_of(outputs: Float[Tensor, "n d"], tiles: Sequence[int]) -> Float[Tensor, "b d"]:
    """The mean of the outputs of each sample, which has so many tiles."""
    if len(outputs) == len(tiles):
        return outputs
    return torch.stack([part.mean(0) for part in outputs.split(list(tiles))])


def refuse_not_finite(
    rows: Float[Tensor, "n ..."], whole: Bool[Tensor, " n"], name: Callable[[int], str]
) -> None:
    """Check that what a model gives for the samples that are whole are finite numbers.

    Args:
        rows: the outputs of each sample, on any device.
        whole: which samples count.
        name: names the sample of a row.

    Raises:
        ValueError: they are not; the message names the first such sample.
    """
    wrong = (whole & ~rows.isfinite().flatten(1).all(1).cpu()).nonzero().flatten()
    if len(wrong):
        raise ValueError(
            f"the model's outputs for {len(wrong)} of {len(rows)} samples are not finite, first for"
            f" {name(int(wrong[0]))}; look for NaN or huge values in these images, compare mean,"
            " std and --data.pixels with those of the pretraining, or take other weights"
        )


def opened(encoded: bytes, suffix: str, metadata: Metadata, config: FittedConfig) -> Picture:
    """An image in the bytes of its file, opened but not decoded.

    Raises:
        ValueError: it is no image.
    """
    statistics = Statistics(metadata.mean, metadata.std)
    return open_image(encoded, suffix, metadata.in_chans, config, statistics)


def normalised(
    picture: Picture, metadata: Metadata, config: FittedConfig
) -> Float[Tensor, "n c h w"]:
    """A picture as the model takes it, on the CPU; more than one image if in tiles.

    Raises:
        ValueError: it cannot be decoded.
    """
    image = Fitted(config.fit, metadata.mean)(picture, metadata.image_size)
    images = image if image.ndim == 4 else image[None]
    return Normalise(metadata.mean, metadata.std, metadata.in_chans)(images)


def open_file(path: Path, metadata: Metadata, config: FittedConfig) -> Picture:
    """An image file, opened but not decoded.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image.
    """
    try:
        return opened(path.read_bytes(), path.suffix.lower()[1:], metadata, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_image(path: Path, metadata: Metadata, config: FittedConfig) -> Float[Tensor, "n c h w"]:
    """An image file as the model takes it, normalised, on the CPU; more than one if in tiles.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, or one that cannot be decoded.
    """
    picture = open_file(path, metadata, config)
    try:
        return normalised(picture, metadata, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
