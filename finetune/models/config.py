"""What users choose of a backbone and the head on it; a help text shows it without torch."""

from dataclasses import dataclass, field
from typing import Literal

from data.config import IMAGENET_MEAN, IMAGENET_STD
from fcmae.architecture import Architecture
from fcmae.run.ranges import Extent, NotNegative, Real, Seed, ShareBelow1
from fcmae.weights.metadata import HeadPool, Metadata

Pool = Literal[HeadPool, "stages"]
By = Literal["layer", "group"]


@dataclass(frozen=True, kw_only=True)
class RandomConfig(Architecture):
    """The backbone of `--weights none`; weights bring all of this with them."""

    like: str | None = None
    """Encoder weights, in any form that --weights takes, whose name, image size, channels, stem
    stride, depths, widths, mean and standard deviation the random start has, and whose pixels it
    reads. Give it to
    compare with them on equal terms; of what follows, only the seed goes with it."""

    mean: tuple[Real, ...] = IMAGENET_MEAN
    """Mean of each channel on the scale 0 to 1, or one value for all."""
    std: tuple[NotNegative, ...] = IMAGENET_STD
    """Standard deviation of each channel, or one value for all."""
    seed: Seed = 0
    """Seed of the initialisation."""

    def metadata(self, step: int | None) -> Metadata:
        """What a file of such weights would say of them.

        Args:
            step: of pretraining: 0 for the random start, None where it is not known.
        """
        return Metadata.of(self, mean=self.mean, std=self.std, step=step)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """What fine-tuning starts from."""

    weights: str = "none"
    """Encoder weights: a run, or what else `python -m fcmae.convert` reads and tells of its images,
    such as timm:convnextv2_atto.fcmae; or none for the random initialisation."""
    backbone: str | None = None
    """timm:NAME, any model of timm, in place of weights; or lineage:NAME, where NAME is lenet5,
    alexnet, zfnet, vgg16 or googlenet. Size, channels, mean and std are those of --random.*."""
    pretrained: bool = False
    """Start from timm's own weights of that model, which timm may have to download."""
    random: RandomConfig = field(default_factory=RandomConfig)
    image_size: Extent | tuple[Extent, Extent] | None = None
    """Side, or height and width, in pixels, for another size than that of the weights."""
    drop_path: ShareBelow1 = 0.0
    """Stochastic depth: the rate of the last block, to which that of the others grows."""
    head_init_scale: NotNegative = 0.001
    """The fresh head's weights, of standard deviation 0.02, times this."""
