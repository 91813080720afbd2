"""A checkpoint as the page asks it: the features of visible patches, predictions, classes."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.decoders.unet import UNet
from fcmae.encoders import make_encoder
from fcmae.patches import patch_grid
from fcmae.reconstruction import reconstruct
from fcmae.visible_encoder import VisibleEncoder
from fcmae.weights.autoencoder import load_autoencoder
from fcmae.weights.files import Weights, read_weights
from fcmae.weights.loading import fill_encoder
from fcmae.weights.metadata import Metadata
from fcmae.weights.timm_models import as_timm
from fcmae.weights.transform import Transform
from finetune.labels.tasks import Task
from finetune.models.classifier import TASK

RATIO = 0.6  # of the patches that are hidden at first, where no run tells its own


@dataclass(frozen=True, kw_only=True)
class Explored:
    """The parts of a checkpoint, in evaluation mode.

    Attributes:
        encoder: Takes the visible patches alone.
        decoder: Predicts the hidden ones; None where the weights have none.
        classifier: The model with its head; None where the weights have none.
        task: What the head tells; None with the classifier.
        ratio: The share of the patches that pretraining hid.
    """

    metadata: Metadata
    encoder: VisibleEncoder
    decoder: nn.Module | None
    classifier: nn.Module | None
    task: Task | None
    ratio: float

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of rows and columns of patches."""
        return patch_grid(*self.metadata.image_size, self.encoder.patch_size)

    @torch.inference_mode()
    def stages(
        self, images: Float[Tensor, "b c h w"], visible: Bool[Tensor, "b n"]
    ) -> list[Float[Tensor, "b v _ _ _"]]:
        """Compute what the four stages give for each visible patch, as s x s positions.

        Args:
            images: Normalised images.
            visible: True where the encoder sees the patch, the same number v in each row.

        Returns:
            The outputs of the stages; a patch is one position of the last.
        """
        return self.encoder.scales(images, visible, None)

    @torch.inference_mode()
    def views(
        self,
        image: Float[Tensor, "c h w"],
        visible: Bool[Tensor, " n"],
        stages: Sequence[Float[Tensor, "1 v _ _ _"]],
    ) -> Float[Tensor, "4 c h w"]:
        """Original, visible patches, prediction and both together, on the scale 0 to 1.

        Without a decoder, the prediction is the mean of the data everywhere.

        Args:
            image: A normalised image.
            visible: True where the encoder sees the patch.
            stages: What the stages give for the visible patches.
        """
        p = self.encoder.patch_size
        images, rows = image[None], visible[None]
        if self.decoder is None:
            hidden = int((~visible).sum())
            prediction = images.new_zeros(1, hidden, p * p * len(image))
        else:
            unet = isinstance(self.decoder, UNet)
            latent = stages if unet else stages[-1][:, :, 0, 0]
            prediction = self.decoder(latent, rows, self.grid)
        views = reconstruct(images, rows, prediction, p)
        return Transform(self.metadata).inverse(views.cpu())[0].clamp(0, 1)

    @torch.inference_mode()
    def answers(self, image: Float[Tensor, "c h w"]) -> Float[Tensor, " k"]:
        """What the head tells of a whole image: probabilities of the classes, or a value."""
        assert self.classifier is not None
        assert self.task is not None
        return self.task.answers(self.classifier(image[None]).float())[0].cpu()


def load(source: str, device: torch.device, say: Callable[[str], object]) -> Explored:
    """Load a checkpoint.

    Args:
        source: See `fcmae.load`.
        device: What computes.
        say: Prints a sentence about what was fetched or chosen.

    Raises:
        OSError: It cannot be read or fetched.
        ValueError: It holds no encoder of this project, or nothing tells its images.
    """
    weights = read_weights(source)
    metadata = weights.told_metadata(source)
    for note in weights.notes:
        say(note)
    encoder = make_encoder(metadata.architecture, "gathered", torch.Generator())
    fill_encoder(encoder.eval().to(device), weights)
    decoder, ratio = None, RATIO
    with suppress(FileNotFoundError):  # these weights are no run, and have no decoder
        autoencoder, _ = load_autoencoder(source)
        decoder, ratio = autoencoder.decoder.to(device), autoencoder.ratio
    task = task_of(weights)
    return Explored(
        metadata=metadata,
        encoder=encoder,
        decoder=decoder,
        classifier=None if task is None else as_timm(weights.tensors, metadata).eval().to(device),
        task=task,
        ratio=ratio,
    )


def task_of(weights: Weights) -> Task | None:
    """What the head of weights tells; None without a head.

    Raises:
        ValueError: The task in their header is damaged.
    """
    if TASK in weights.extra_header:
        return Task.of_json(weights.extra_header[TASK])
    return Task(kind="class", field="", names=weights.classes) if weights.classes else None
