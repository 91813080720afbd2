"""Looks at the same images at chosen steps of a run: what its encoder makes of them, in files."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from data.order import Order
from data.shards.index import Shard
from data.transforms import Normalise
from fcmae import FCMAE
from fcmae.masking import draw_visible_of
from fcmae.reconstruction import reconstruct
from fcmae.responses import Responses, merged, respond, strongest
from fcmae.run.compiling import eager
from fcmae.run.learner import Learner
from fcmae.run.outages import Outage
from fcmae.run.session import Session
from fcmae.run.terminal import line_of, say
from fcmae.run.whole_tensors import whole
from fcmae.sheet import as_rgb
from fcmae.spectrum import alpha_req, rankme
from finetune.training.pretraining import FEWEST, PretrainConfig
from finetune.training.watched_images import WatchedImages, read_watched, save_described

SHARE = 0.02  # of a run, which looks may take
RARELY = 6  # looks: a run that cannot afford as many keeps fewer images
EARLY = 0.01  # of a run, after which the first look of a step is
SHOWN = FEWEST  # images that are reconstructed
CHUNK = 8  # images in a forward pass: their activations stay in the cache of a CPU
MOST_WAITING = 4  # files; the oldest go where more cannot be written


class Looks:
    """Keeps images in the run's directory watched/, and a file of each look; changes no number.

    A file that cannot be written is told of, and stops nothing. The last few of these wait, and are
    tried again with the next line of metrics.

    Args:
        config: of the run, with the data's mean and standard deviation.
        run: the run's directory.
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
        self.folder = run / "watched"
        self.model = model
        self.session = session
        self.learner = learner
        self.normalise = normalise
        self.images: WatchedImages | None = None
        self.steps: tuple[int, ...] = ()
        self.unsaved = False  # the images
        self.waiting = deque[tuple[Path, dict[str, Tensor], dict[str, object]]](maxlen=MOST_WAITING)
        self.reading = Outage("without looks at these images")
        self.writing = Outage("and the next line of metrics tries again")

    def begin(self, shards: Sequence[Shard], order: Order) -> None:
        """Find the images, and look at them before the first step; every process has to call it.

        A run that resumes has them in its file; they are read again if that is damaged. Looks after
        the step that it resumes from are removed, as lines of metrics are: they are made again.

        Args:
            shards: the training data.
            order: of its samples.
        """
        config = self.config
        if not config.watch.images or config.dry_run:
            return
        accelerator = self.learner.accelerator
        found = None
        # one process reads, or those that see another disk would look at other images
        if accelerator.is_main_process:
            with self.reading.spared("reading images to watch"):
                found = self.kept() or self.read(shards, order)
                self.remove_later()
        (self.images,) = broadcast_object_list([found])
        if self.images is None:
            return
        passes = affordable(config.optim.batch_size * self.learner.total, config.model.ratio)
        looks = min(config.watch.looks, max(2, int(passes / (len(self.images) + SHOWN))))
        self.steps = look_steps(self.learner.total, looks)
        if self.learner.state.step == 0:
            with eager():
                self.look(self.images)
        elif accelerator.is_main_process:
            self.write()

    def kept(self) -> WatchedImages | None:
        """The images of an earlier start; None if there are none, or they are damaged."""
        path = self.folder / "images.safetensors"
        if self.learner.state.step == 0:
            return None
        try:
            images = WatchedImages.load(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            say(f"{path} is damaged ({line_of(error)}): its images are read again")
            return None
        return images

    def read(self, shards: Sequence[Shard], order: Order) -> WatchedImages:
        """Read the images out of the training data, as many as the run can afford."""
        config = self.config
        passes = affordable(config.optim.batch_size * self.learner.total, config.model.ratio)
        images = read_watched(
            shards,
            config.data,
            order,
            min(config.watch.images, max(FEWEST, int(passes / RARELY) - SHOWN)),
            size=self.model.image_size,
            in_chans=config.model.in_chans,
        )
        self.unsaved = True
        return images

    def remove_later(self) -> None:
        """Remove the looks of steps that will run again."""
        for path in self.folder.glob("step_*.safetensors"):
            if int(path.stem.removeprefix("step_")) > self.learner.state.step:
                path.unlink()

    def measure(self) -> dict[str, float]:
        """Look if a look has fallen due since the last line of metrics; every process calls it.

        Returns:
            `rankme` and `alpha_req` of the features, on the main process, or nothing.
        """
        if self.images is None:
            return {}
        before, step = self.session.progress.logged, self.learner.state.step
        if any(before < due <= step for due in self.steps):
            with eager():  # another size of batch would be compiled anew
                return self.look(self.images)
        if self.learner.accelerator.is_main_process:
            self.write()
        return {}

    @torch.no_grad()
    def look(self, images: WatchedImages) -> dict[str, float]:
        """Look at the images, all processes a share each, and write what is seen."""
        accelerator = self.learner.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        first, end = (len(images) * r // world for r in (rank, rank + 1))
        model = self.whole_model()
        parts = [
            respond(model.encoder, self.normalise(part.to(accelerator.device)))
            for part in images.inputs[first:end].split(CHUNK)
            if len(part)
        ]
        gathered = gather_object([merged(parts)] if parts else [])
        if not accelerator.is_main_process:
            return {}
        responses = merged(gathered)
        spectrum = spectrum_of(responses)
        state = self.learner.state
        header = {"step": state.step, "samples_seen": state.samples_seen, **spectrum}
        tensors = self.reconstructed(model, images) | tensors_of(responses)
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        path = self.folder / f"step_{state.step:07d}.safetensors"
        self.waiting.append((path, whole, {**header, "strides": responses.strides}))
        self.write()
        return spectrum

    def whole_model(self) -> FCMAE:
        """The model, or a copy of it where its parameters are split over processes."""
        if not isinstance(self.learner.trained, FSDPModule):
            return self.model
        weights = whole(self.model.state_dict(), keep=True)
        with torch.device("meta"):
            copy = FCMAE.from_config(self.config.model)
        copy.load_state_dict(weights, assign=True)
        return copy.to(self.learner.device)

    def reconstructed(self, model: FCMAE, images: WatchedImages) -> dict[str, Tensor]:
        """The first images as the model sees and predicts them, always under the same masks."""
        config = self.config
        x = self.normalise(images.inputs[:SHOWN].to(self.learner.device))
        number = torch.arange(len(x))
        masks = draw_visible_of(
            config.seed, torch.zeros_like(number), number, model.n, config.model.ratio
        ).to(x.device)
        model.eval()  # for batch norm, which moves its statistics, with all processes, in training
        _, prediction = model(x, masks)
        model.train()
        views = reconstruct(x, masks, prediction, model.patch_size)
        _, *others = as_rgb(self.normalise.inverse(views)).cpu().unbind(1)
        return dict(zip(("visible", "prediction", "pasted"), others, strict=True))

    def write(self) -> None:
        """Write what waits, in order; a failure is told, and what it meets goes on to wait."""
        if self.images is None or not (self.unsaved or self.waiting):
            return
        with self.writing.spared(f"writing {self.folder}"):
            if self.unsaved:
                self.images.save(self.folder / "images.safetensors", self.model.patch_size)
                self.unsaved = False
            while self.waiting:
                path, tensors, header = self.waiting[0]
                save_described(path, tensors, header)
                self.waiting.popleft()


def affordable(samples: int, ratio: float) -> float:
    """The forward passes of whole images that take at most 2 % of a run.

    An image of a step is taken to cost two such passes of its visible share. By the count of
    products it is three, but a look also does what training does not: on the demo's recipe, one
    image of a look took the time of 1.15 images of a step, which is 2.2 passes of 40 %.

    Args:
        samples: images of all steps of the run.
        ratio: share of the patches that are hidden.
    """
    return SHARE * samples * 2 * (1 - ratio)


def look_steps(total: int, looks: int) -> tuple[int, ...]:
    """The steps after which to look, beside the look before the first step.

    They run from 1 % of the run to its end in a geometric series, since a model changes most at
    first.

    Args:
        total: steps of the run.
        looks: how many, with the one before the first step.
    """
    count = looks - 1
    shares = [EARLY ** (1 - i / (count - 1)) for i in range(count)] if count > 1 else [1.0] * count
    return tuple(sorted({max(1, round(total * share)) for share in shares}))


def spectrum_of(responses: Responses) -> dict[str, float]:
    """RankMe and alpha-ReQ of the features, as far as they have any."""
    features = responses.features
    if not features.isfinite().all():
        return {}
    values = {"rankme": rankme(features), "alpha_req": alpha_req(features)}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def tensors_of(responses: Responses) -> dict[str, Tensor]:
    """What a file has of responses.

    `features` in half precision; for each stage from 1 on its `channels`, and for each of these the
    nine strongest sites, `images`, `rows`, `columns`, `values`; `grn{b}.response`, a mean over the
    images, for each block from 0 on.
    """
    tensors = {"features": responses.features.half()}
    for number, peaks in enumerate(responses.stages, 1):
        sites: Mapping[str, Tensor] = vars(strongest(peaks))
        tensors |= {f"stage{number}.{name}": value for name, value in sites.items()}
    for block, response in enumerate(responses.grn):
        tensors[f"grn{block}.response"] = response / len(responses.features)
    return tensors
