"""timm's augmentations as pure functions of (seed, epoch, sample), or of (seed, step).

timm draws from the generators of Python, NumPy and torch that a process has. `seeded` sets them for
the length of a call, so that what is drawn depends on nothing else. Mixup and CutMix mix the images
of one process: they depend on how many processes there are.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import fromarray
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from data.config import Pixels
from data.decode import Picture
from data.transforms import Crop, Image
from finetune.training.config import AugmentConfig

CHANNELS = (1, 3)  # RandAugment works on grey and RGB pictures
STRONGEST = 9.99  # of timm's magnitudes: at 10 posterize keeps no bit, which Pillow refuses


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """The generators as this key sets them, and those of the CPU afterwards as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed = random.Random(" ".join(map(str, key))).getrandbits(32)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # it is the one that timm draws from
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


class AugmentedCrop:
    """A random crop, and timm's policy on it: a function of the sample's generator.

    Args:
        config: what to do.
        mean: of each channel, on the scale 0 to 1, or one for all: what rotations leave empty.
        in_chans: channels of the images.
        pixels: "uint8" or "float32".

    Raises:
        ValueError: a policy, and images that are none of 8 bits in grey or RGB; no policy of timm.
    """

    def __init__(
        self, config: AugmentConfig, mean: tuple[float, ...], in_chans: int, pixels: Pixels
    ) -> None:
        self.crop = Crop(config.scale, config.flip)
        self.policy = None
        name = config.rand_augment
        if not name:
            return
        if in_chans not in CHANNELS or pixels != "uint8":
            raise ValueError(
                f"augment.rand_augment={name} works on 8-bit images of 1 or 3 channels, not"
                f" {in_chans} of {pixels}: give --augment.rand_augment ''"
            )
        if not name.startswith("rand-"):
            raise ValueError(
                f"augment.rand_augment={name} is no policy such as rand-m9-mstd0.5-inc1"
            )
        fill = tuple(round(255 * m) for m in mean) * (in_chans if len(mean) == 1 else 1)
        hparams = {"img_mean": fill if in_chans == 3 else fill[0], "magnitude_max": STRONGEST}
        self.policy = rand_augment_transform(name, hparams)

    def __call__(self, picture: Picture, size: tuple[int, int], rng: random.Random) -> Image:
        """Decode a box of `picture`, resize it, flip it with probability 1/2, apply the policy."""
        image = self.crop(picture, size, rng)
        if self.policy is None:
            return image
        array = np.ascontiguousarray(image.permute(1, 2, 0))
        with seeded(rng.getrandbits(64)):
            changed = self.policy(fromarray(array[..., 0] if array.shape[2] == 1 else array))
        changed = np.array(changed).reshape(array.shape)
        return torch.from_numpy(changed).permute(2, 0, 1).contiguous()


def erase(
    images: Float[Tensor, "b c h w"], share: float, keys: Sequence[tuple[int, ...]]
) -> Float[Tensor, "b c h w"]:
    """timm's random erasing of normalised images, in place, each as its key says.

    Source: Zhong et al., AAAI 2020; noise for each pixel.
    """
    if share:
        erasing = RandomErasing(share, mode="pixel", device="cpu")  # where `seeded` reaches
        for image, key in zip(images, keys, strict=True):
            with seeded("erase", *key):
                erasing(image)
    return images


class Mix:
    """timm's mixup and CutMix: images and one-hot targets of a batch with those of its reverse.

    Sources: Zhang et al., ICLR 2018; Yun et al., ICCV 2019.

    Args:
        config: with both alphas 0 nothing is mixed.
        smoothing: of the targets.
        classes: how many; None where targets are no classes.

    Raises:
        ValueError: an alpha, and targets that are no classes.
    """

    def __init__(self, config: AugmentConfig, smoothing: float, classes: int | None) -> None:
        self.mixup = None
        if config.mixup or config.cutmix:
            if classes is None:
                raise ValueError(
                    f"augment.mixup={config.mixup} and cutmix={config.cutmix} mix classes, which"
                    " this task has not: give 0 for both"
                )
            self.mixup = Mixup(
                config.mixup, config.cutmix, label_smoothing=smoothing, num_classes=classes
            )

    def __call__(self, images: Tensor, target: Tensor, *key: int) -> tuple[Tensor, Tensor]:
        """Mix a batch, as its key says; targets become Float[b, classes] of sum 1.

        Raises:
            ValueError: an odd number of images.
        """
        if self.mixup is None:
            return images, target
        if len(images) % 2:
            raise ValueError(
                f"mixup and CutMix pair images, and {len(images)} on each process are odd: choose"
                " another optim.batch_size or optim.accumulate"
            )
        with seeded("mix", *key):
            return self.mixup(images, target)
