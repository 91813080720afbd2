"""What is measured of a pretraining run beside its loss: pictures, collapse, online k-NN."""

from collections import deque
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from data.transforms import Normalise
from fcmae import FCMAE, collapse
from fcmae.reconstruction import VIEWS, reconstruct
from fcmae.run.compiling import eager
from fcmae.run.learner import Learner
from fcmae.run.outages import Outage
from fcmae.run.session import Session
from fcmae.run.whole_tensors import whole
from fcmae.sheet import save_views
from finetune.labels.config import LabelledData
from finetune.labels.labelled import read_classes, samples_of
from finetune.training.looks import Looks
from finetune.training.pretraining import PretrainConfig

SHOWN = 8  # images in a picture
MOST_WAITING = 4  # pictures; the oldest go where more cannot be written


class Watch:
    """Looks at the last micro-batch of a step, and at the encoder; changes no number.

    A picture that cannot be drawn or written is told of, and stops nothing. The last few of those
    that cannot be written wait, and are tried again with the next line of metrics.

    Args:
        config: of the run, with the data's mean and standard deviation.
        run: the run's directory, which gets the pictures and the looks.
        model: what is trained.
        session: of the run.
        learner: of the model.
        normalise: of the images.
    """

    def __init__(
        self,
        config: PretrainConfig,
        run: Path,
        model: FCMAE,
        session: Session,
        learner: Learner,
        normalise: Normalise,
    ) -> None:
        self.config = config
        self.name = run.resolve().name
        self.pictures = run / "pictures"
        self.model = model
        self.session = session
        self.learner = learner
        self.normalise = normalise
        self.waiting = deque[tuple[int, Tensor]](maxlen=MOST_WAITING)
        self.looks = Looks(config, run, model, session, learner, normalise)
        self.drawing = Outage("without this picture")
        self.writing = Outage("and the next line of metrics tries again")

    def look(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        prediction: Float[Tensor, "b k ppc"],
    ) -> None:
        """Remember a micro-batch, in place of the one before."""
        self.images = images
        self.visible = visible
        self.prediction = prediction.detach()

    def draw(self) -> None:
        """Draw reconstructions of the remembered images after a step for which they are due."""
        if not self.session.accelerator.is_main_process:
            return
        every = self.config.run.picture_every
        step = self.learner.state.step
        due = every and (self.session.last or step % every == 0)
        if due:
            with self.drawing.spared(f"drawing {self.path_of(step)}"):
                views = reconstruct(
                    self.images[:SHOWN],
                    self.visible[:SHOWN],
                    self.prediction[:SHOWN],
                    self.model.patch_size,
                )
                self.waiting.append((step, self.normalise.inverse(views).cpu()))
        if self.waiting and (due or self.session.logging):
            with self.writing.spared(f"writing {self.path_of(self.waiting[0][0])}"):
                while self.waiting:
                    drawn, views = self.waiting[0]
                    save_views(views, self.path_of(drawn), VIEWS, f"{self.name}, step {drawn}")
                    self.waiting.popleft()

    def path_of(self, step: int) -> Path:
        """The file of the picture of a step."""
        return self.pictures / f"step_{step:07d}.png"

    def measure(self) -> dict[str, Any]:
        """What goes into a line of metrics: what has fallen due since the line before.

        Every process has to call it.

        Returns:
            `collapse`, the feature distance of each block, `knn_accuracy`, and `rankme` and
            `alpha_req` of the images that the run keeps, or none of them.
        """
        values: dict[str, Any] = {**self.looks.measure()}
        watch = self.config.watch
        if watch.collapse_every and self.has_passed(watch.collapse_every):
            values["collapse"] = self.collapse()
        epoch = self.learner.samples / self.config.optim.batch_size
        if watch.knn_train and (self.session.last or self.has_passed(watch.knn_every * epoch)):
            values["knn_accuracy"] = self.knn_accuracy()
        return values

    def has_passed(self, every: int | float) -> bool:
        """Whether a multiple of `every` steps lies between the last line of metrics and this."""
        return self.session.progress.logged // every < self.learner.state.step // every

    @torch.no_grad()
    def collapse(self) -> list[float]:
        """The feature distance of each block on the remembered images."""
        sharded = isinstance(self.learner.trained, FSDPModule)
        forward = self.learner.trained if sharded else self.model
        self.model.eval()  # for a contrastive term, whose queue takes what it sees in training
        with eager(), collapse.measured(self.model.encoder) as distances:  # which hooks blocks
            forward(self.images, self.visible)
        self.model.train()
        return torch.stack(distances).tolist()

    def knn_accuracy(self) -> float:
        """Accuracy of k-NN on the labelled shards to watch, with the encoder as it is now."""
        from fcmae.weights.metadata import Metadata
        from fcmae.weights.timm_models import as_timm  # timm: a tenth of the time of a start
        from finetune.frozen.neighbours import knn_accuracy

        metadata = Metadata.of(
            self.config.model,
            mean=self.config.data.mean,
            std=self.config.data.std,
            step=self.learner.state.step,
        )
        accelerator = self.session.accelerator
        data = labelled_data(self.config)
        weights = whole(self.model.encoder.state_dict(), keep=True)
        encoder = as_timm(weights, metadata)
        return knn_accuracy(encoder, metadata, data, self.config.watch.knn_k, accelerator)


def labelled_data(config: PretrainConfig) -> LabelledData:
    """The labelled shards that a run watches, read as its images are."""
    return LabelledData(
        train=config.watch.knn_train,
        test=config.watch.knn_test,
        workers=config.data.workers,
        max_bad_fraction=config.data.max_bad_fraction,
        pixels=config.data.pixels,
        range=config.data.range,
        nodata=config.data.nodata,
        background=config.data.background,
        image=config.data.image,
        source=config.data.source,
    )


def check_watched(config: PretrainConfig) -> None:
    """Check the labelled shards to watch before training: they would end it hours later.

    Raises:
        OSError: a shard cannot be read.
        ValueError: the same; there is nothing to classify, there are fewer samples than neighbours,
            or see `read_classes`.
    """
    watch = config.watch
    if not watch.knn_train:
        return
    if not watch.knn_test:
        raise ValueError("watch.knn_train is there to classify watch.knn_test: give both, or none")
    data = labelled_data(config)
    train, test = (samples_of(spec, data) for spec in (data.train, data.test))
    if not 1 <= watch.knn_k <= len(train):
        raise ValueError(
            f"watch.knn_k={watch.knn_k} must lie between 1 and the {len(train)} training samples"
        )
    for samples in (train, test):
        read_classes(samples, data.group, data.max_bad_fraction)
