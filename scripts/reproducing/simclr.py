"""SimCLR with lightly's loss and projector (arXiv 2002.05709): the rival that masks nothing.

    simclr scripts/recipes/demo.yaml --run.dir DIR

It takes the recipes and flags of pretrain.py, of which those of masks and decoder mean nothing
here. The encoder sees whole images, in two views of each: crops and flips as in pretraining, with
colours jittered as SimCLR does for small images, without blur. Batches, steps, checkpoints and
what happens on signals are those of pretraining.
"""

import random
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from data.bad_samples import BadSamples
from data.dataset import ShardImages
from data.decode import Picture
from data.fitting import Tiles
from data.making.cached import as_shards
from data.order import GlobalBatches, Order
from data.pipeline import batch_loader
from data.shards.index import Shard
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from data.targets import Unlabelled
from data.transforms import Crop, Normalise
from data.values import Statistics
from fcmae.encoders import make_encoder
from fcmae.run.computing import precision_on
from fcmae.run.config import parse
from fcmae.run.directory import compare
from fcmae.run.extras import extra
from fcmae.run.learner import Learner, parameter_groups
from fcmae.run.processes import Processes
from fcmae.run.session import Session
from fcmae.run.starting import newest_checkpoint, resume, start_accelerator
from finetune.training import start
from finetune.training.augment import seeded
from finetune.training.batches import batches_left, names_of_step
from finetune.training.pretraining import LENGTH, MAY_CHANGE, PretrainConfig

WIDTH = 128  # of the space in which views are compared, as in the paper
JITTER = (0.4, 0.4, 0.4, 0.1)  # the paper's at half its strength, as for CIFAR


class TwoViews:
    """Two crops of a picture, each with colours of its own: a function of the sample's generator.

    Args:
        scale: share of the picture's area that a crop keeps: from, to.
        flip: whether half of the crops are mirrored.
    """

    def __init__(self, scale: tuple[float, float], flip: bool) -> None:
        self.crop = Crop(scale, flip)
        self.colours = v2.Compose(
            [v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8), v2.RandomGrayscale(p=0.2)]
        )

    def __call__(self, picture: Picture, size: tuple[int, int], rng: random.Random) -> Tiles:
        return torch.stack([self.view(picture, size, rng) for _ in range(2)])

    def view(self, picture: Picture, size: tuple[int, int], rng: random.Random) -> Tensor:
        """One of the views."""
        image = self.crop(picture, size, rng)
        with seeded(rng.getrandbits(64)):
            return self.colours(image)


class SimCLR(nn.Module):
    """An encoder on whole images, a projector, and the loss that lets two views attract.

    Args:
        config: of the program.
        generator: source of the encoder's initial weights.

    Raises:
        ModuleNotFoundError: lightly is not installed.
    """

    def __init__(self, config: PretrainConfig, generator: torch.Generator) -> None:
        super().__init__()
        with extra("rivals", "SimCLR, which is of lightly, needs"):
            from lightly.loss import NTXentLoss  # type: ignore[import-not-found]
            from lightly.models.modules import (  # type: ignore[import-not-found]
                SimCLRProjectionHead,
            )
        self.encoder = make_encoder(config.model, config.model.sparse, generator)
        dim = config.model.dim
        self.n = config.model.patches
        with seeded("projector", config.seed):
            self.proj = SimCLRProjectionHead(dim, dim, WIDTH)  # the converter drops this name
        self.loss = NTXentLoss()

    def forward(self, views: Float[Tensor, "2b c h w"]) -> Float[Tensor, ""]:
        """Compute the loss of views, those of a sample one after the other."""
        visible = torch.ones(len(views), self.n, dtype=torch.bool, device=views.device)
        projected = self.proj(self.encoder(views, visible, self.n).mean(1))
        return self.loss(projected[0::2], projected[1::2])


def loader_of(
    config: PretrainConfig, shards: Sequence[Shard], batches: GlobalBatches
) -> DataLoader[dict[str, Any]]:
    """The two views of the images of these batches, one after the other.

    Raises:
        ValueError: the bytes of a shard are no tar.
    """
    images = ShardImages(
        ShardSamples(shards, config.data.source),
        size=config.model.sides,
        in_chans=config.model.in_chans,
        pixels=config.data,
        statistics=Statistics(config.data.mean, config.data.std),
        seed=config.seed,
        crop=TwoViews(config.data.scale, config.data.flip),
        target=Unlabelled(),
        image=config.data.image,
        replace=True,
    )
    return batch_loader(images, batches, workers=config.data.workers)


def main(argv: Sequence[str]) -> None:
    """Train in one process, as pretrain.py does.

    Raises:
        ModuleNotFoundError: lightly is not installed.
        OSError, ValueError, FloatingPointError, SystemExit: see pretrain.py.
    """
    config = parse(PretrainConfig, argv, description=str(__doc__))
    run = config.run
    processes = Processes(run.timeout)
    accelerator = start_accelerator(processes)
    device = accelerator.device
    train = as_shards(config.data.train, config.data.source)
    shards = open_shards(train, run.verify, config.data.source, config.data.image)
    config = start.with_statistics(config, shards, accelerator.print)
    config = start.settled(config, accelerator)
    newest = newest_checkpoint(run.dir, accelerator)
    compare(
        run.dir,
        config,
        accelerator.print,
        free=MAY_CHANGE,
        length=LENGTH,
        told={},
        shards=shards,
        newest=newest,
    )
    model = SimCLR(config, torch.Generator().manual_seed(config.seed)).to(device)
    order = Order([shard.samples for shard in shards], config.seed, config.data.window)
    learner = Learner(
        model,
        model,
        parameter_groups(model.named_parameters(), config.optim.weight_decay),
        config.optim,
        samples=order.samples,
        precision=precision_on(device, config.precision),
        accelerator=accelerator,
        averaged=model.encoder,
        prefix="encoder.",
    )
    resume(learner, run.dir, newest)
    if learner.finished:
        return
    batches = batches_left(order, learner, processes, learner.total)
    loader = loader_of(config, shards, batches)
    normalise = Normalise(config.data.mean, config.data.std, config.model.in_chans).to(device)
    session = Session(
        run.dir,
        run,
        config,
        learner,
        BadSamples(order.samples, config.data.max_bad_fraction),
        end=learner.total,
        title="SimCLR",
        names_of_step=names_of_step(cast("ShardImages", loader.dataset), batches),
        shards=shards,
    )
    micro_batches = iter(loader)
    for step in session.steps():
        learner.begin(step)
        for micro in learner.micro_batches:
            views = normalise(session.take(micro_batches)["image"].to(device))
            with learner.accumulating(micro):
                with learner.autocast():
                    loss = learner.trained(views)
                learner.backward(loss)
        learner.step(measure=session.logging)
        line = session.measure()
        if line is not None:
            session.log(line)
        session.save()
    session.end()
