"""The images of the data set that a page shows: some of them at a time, each by its number."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import torch
from jaxtyping import Float
from torch import Tensor

from data.dataset import ShardImages
from data.targets import ClassText
from data.transforms import Normalise
from fcmae.run.accelerator import LineAccelerator
from fcmae.run.terminal import line_of, say, visible
from fcmae.weights.metadata import Metadata
from finetune.exploring.config import ExploreConfig
from finetune.labels.inference import Inference, images_for
from finetune.labels.labelled import Chosen, samples_of
from finetune.labels.names import class_names


class DataImages:
    """The images of shards, as a model takes them.

    Args:
        config: Names the shards, and tells how images are read.
        metadata: Of the model.

    Raises:
        OSError, ValueError: See `finetune.labels.labelled.samples_of`.
    """

    def __init__(self, config: ExploreConfig, metadata: Metadata) -> None:
        self.config = config
        self.metadata = metadata
        samples = samples_of(config.data, config, verify=False)
        self.images: ShardImages = images_for(samples, config, metadata, target=ClassText())
        self.classes = class_names(samples)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, sample: int) -> tuple[Float[Tensor, "c h w"], str]:
        """Read a normalised image, and its name: the end of its key, and its class.

        Raises:
            ValueError: There is no such sample, it cannot be read, which the terminal explains, or
                it has no image that can be decoded. No text names a path.
        """
        if not 0 <= sample < len(self):
            raise ValueError(f"there is no image {sample}: the data set has {len(self)}")
        try:
            item = self.images[(0, sample)]
        except (OSError, ValueError) as error:
            say(f"error: {line_of(error)}", error=True)
            raise ValueError(
                f"image {sample} of the data set cannot be read; the terminal says why"
            ) from error
        if not item["whole"]:
            raise ValueError(
                f"image {sample} of the data set cannot be decoded: {item['bad'][0].why}"
            )
        metadata = self.metadata
        normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans)
        return normalise(item["image"][None])[0], self.named(item["key"], item["label"])

    def named(self, key: str, label: str) -> str:
        """Name an image by its class and the end of its key, which may begin with folders."""
        if label.isdecimal() and int(label) < len(self.classes):
            label = self.classes[int(label)]
        name = PurePosixPath(key).name
        return visible(f"{name}, {label}" if label else name)

    def spread(self, most: int) -> Iterator[tuple[Float[Tensor, "b c h w"], list[int]]]:
        """Read some images that are evenly spread over all, on the device that computes.

        Args:
            most: How many.

        Yields:
            Normalised images, and the numbers of their samples; those that cannot be read are left
            out.

        Raises:
            OSError, ValueError: A shard cannot be read, or too many images are broken.
        """
        count = min(most, len(self))
        chosen = torch.linspace(0, len(self) - 1, count).round().long()
        some = Chosen(self.images, chosen, replace=False)
        inference = Inference(some, self.metadata, self.config, LineAccelerator())
        bad = []
        for x, batch in inference.batches():
            whole = batch["whole"]
            bad += batch["bad"]
            if whole.any():
                yield x[whole.to(x.device)], batch["sample"][whole].tolist()
        inference.count(bad)
