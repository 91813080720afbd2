"""The loader against its rivals: the official recipe's ImageFolder and a plain webdataset pipeline.

Both sides read the same JPEGs, 500 x 375, crop them to 224 px at random, flip half of them and make
batches, in one process on one core. Our batches are bytes, which the device normalises; on one core
`Normalise` takes a tenth of the loader's time.
"""

import atexit
import io
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from webdataset.compat import WebDataset

from data.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from data.order import GlobalBatches, Order
from data.pipeline import train_loader
from data.shards.reading import open_shards
from data.shards.writing import write_shards
from fcmae import FCMAE
from fcmae.masking import draw_visible
from fcmae.run.config import parse
from finetune.training.pretraining import PretrainConfig
from scripts.bench.timing import Work

IMAGES = 256
BATCH = 32
RECIPE = "scripts/recipes/demo.yaml"
OFFICIAL = transforms.Compose(
    [
        transforms.RandomResizedCrop(
            224, scale=(0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC
        ),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)


def photograph(seed: int, height: int = 375, width: int = 500) -> bytes:
    """Make a JPEG of quality 90 with detail on all scales; it has 40 kB, as a photograph has."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for scale in (3, 6, 12, 25, 50, 100, 200, 350):
        small = rng.normal(size=(3, scale * height // width + 1, scale)).astype(np.float32)
        for c in range(3):
            layer = Image.fromarray(small[c]).resize((width, height), Image.Resampling.BICUBIC)
            image[..., c] += np.asarray(layer) / scale**0.5
    image = (image - image.min()) * (255 / (image.max() - image.min()))
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "jpeg", quality=90)
    return file.getvalue()


class Photographs:
    """The same images as a folder and as shards, which are removed when the process ends.

    Args:
        number: of images.
    """

    def __init__(self, number: int = IMAGES) -> None:
        folder = self.folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder)
        images = [photograph(seed) for seed in range(number)]
        (folder / "photos" / "class").mkdir(parents=True)
        for i, image in enumerate(images):
            (folder / "photos" / "class" / f"{i}.jpg").write_bytes(image)
        samples = ({"__key__": str(i), "jpg": image, "cls": 0} for i, image in enumerate(images))
        self.shards = write_shards(samples, folder / "shards", "train", 64)
        self.size = sum(map(len, images)) / number


the_photographs = cache(Photographs)  # made once, kept until the process ends


def drain(batches: Iterable[Any]) -> None:
    """Take all batches, and do nothing with them."""
    for _ in batches:
        pass


def ours(photographs: Photographs) -> Work:
    """Make our loader, as pretraining uses it."""
    order = Order([shard.samples for shard in photographs.shards], 0, 64)
    batches = GlobalBatches(order, batch_size=BATCH, start=0, steps=IMAGES // BATCH)
    config = DataConfig(train=("unused",), workers=0)
    loader = train_loader(
        photographs.shards, config, batches, size=(224, 224), in_chans=3, pin_memory=False
    )
    return partial(drain, loader)


def image_folder(photographs: Photographs) -> Work:
    """Make a loader of torchvision's ImageFolder with the transforms of the official recipe."""
    folder = ImageFolder(photographs.folder / "photos", OFFICIAL)
    return partial(drain, DataLoader(folder, BATCH, shuffle=True))


def plain_webdataset(photographs: Photographs) -> Work:
    """Make the pipeline that webdataset's documentation shows, with the same transforms."""
    urls = [shard.url for shard in photographs.shards]
    stream: Any = WebDataset(urls, shardshuffle=len(urls))
    stream = stream.shuffle(1000).decode("pil").to_tuple("jpg", "cls").map_tuple(OFFICIAL)
    return partial(drain, DataLoader(stream.batched(BATCH), batch_size=None))


def against(rival: Callable[[Photographs], Work]) -> tuple[Work, Work]:
    """Make a rival's loader and ours, on the same images."""
    photographs = the_photographs()
    return rival(photographs), ours(photographs)


def demo() -> tuple[Work, Work]:
    """Make training steps of the demo's recipe, and its loader, over the same number of images."""
    config = parse(PretrainConfig, [RECIPE], description="")
    model = FCMAE.from_config(config.model, generator=torch.Generator().manual_seed(0))
    shards = open_shards(config.data.train)
    order = Order([shard.samples for shard in shards], 0, config.data.window)
    batches = GlobalBatches(order, batch_size=BATCH, start=0, steps=IMAGES // BATCH)
    loader = train_loader(
        shards,
        DataConfig(train=config.data.train, workers=0),
        batches,
        size=model.image_size,
        in_chans=3,
        pin_memory=False,
    )
    images = torch.randn(BATCH, 3, *model.image_size)
    visible = draw_visible(BATCH, model.n, model.ratio, generator=torch.Generator().manual_seed(0))

    def train() -> None:
        for _ in range(IMAGES // BATCH):
            model.zero_grad()
            model(images, visible)[0].backward()

    return train, partial(drain, loader)


# key -> what makes (the rival's work, ours): the ratio of times is that of images/s, ours on top
LOADING: dict[str, tuple[Callable[[], tuple[Work, Work]], str]] = {
    "pipeline_over_imagefolder": (partial(against, image_folder), ">= 3"),
    "pipeline_over_plain_webdataset": (partial(against, plain_webdataset), "> 1"),
    "loader_over_model_demo": (demo, ">= 5"),
}
