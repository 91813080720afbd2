"""The model of a task: a backbone of this project or of timm, and a fresh head on it."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from difflib import get_close_matches
from pathlib import Path

import timm
from timm.models import VisionTransformer
from torch import nn

from fcmae.encoders.convvit import ConvViT
from fcmae.networks import STEM_STRIDE, make_network
from fcmae.patches import sides_of
from fcmae.run.whole_tensors import fill
from fcmae.weights.files import read_weights
from fcmae.weights.grids import classify_cells
from fcmae.weights.metadata import CLASSES, HeadPool, Metadata
from fcmae.weights.safetensors_files import read_converted
from fcmae.weights.timm_creation import create_timm
from fcmae.weights.timm_models import load_timm, save_timm
from fcmae.weights.timm_protocols import TimmModel
from finetune.labels.tasks import Task
from finetune.lineage import networks
from finetune.models.backbone import backbone, metadata_of
from finetune.models.config import BackboneConfig
from finetune.training.augment import seeded

TIMM = "timm:"  # in front of the names of models that are timm's alone
TASK = "task"  # key of the task in a header of fine-tuned weights
HEAD_STD = 0.02


def create(
    config: BackboneConfig,
    outputs: int,
    seed: int,
    say: Callable[[str], object] = print,
    pool: HeadPool = "last",
) -> tuple[nn.Module, Metadata]:
    """The model with a fresh head of `outputs` values, and how it takes images.

    Args:
        config: what it starts from.
        outputs: number of values of the head; 0 makes none.
        seed: of the head.
        say: prints a sentence about weights that were fetched or chosen.
        pool: what the head takes.

    Raises:
        OSError: see `backbone`.
        ValueError: see `backbone` and `classify_cells`; no model of timm, or two backbones.
    """
    with seeded("model", seed):  # timm's own initialisation
        if config.backbone is not None:
            if config.weights != "none":
                raise ValueError(
                    f"weights={config.weights} and backbone={config.backbone}: give one of them"
                )
            metadata = replace(
                metadata_of(config.random, step=None),
                model=config.backbone,
                stem_stride=STEM_STRIDE,  # it is timm's own network
            )
            if config.image_size is not None:
                raise ValueError(
                    f"image_size={config.image_size} is for weights: give --random.image_size"
                )
            model = create_any(metadata, outputs, config.drop_path, config.pretrained)
        elif config.pretrained:
            raise ValueError("pretrained=True is for timm's weights: give --backbone timm:NAME")
        elif config.weights == "none":
            start, metadata = backbone("none", config.random, say)
            model = create_timm(metadata, outputs, config.drop_path)
            own = model.state_dict()  # of ConvMAE, those of frozen features are more
            known = {k: v for k, v in start.state_dict().items() if k in own}
            model.load_state_dict(own | known)
        else:
            model, metadata = load_timm(config.weights, outputs, config.drop_path, say)
        if config.image_size is not None:
            metadata = replace(metadata, image_size=sides_of(config.image_size))
            if isinstance(model, VisionTransformer | ConvViT):
                metadata.architecture.check()
                model.set_input_size(metadata.image_size)  # its positions are interpolated
        classify_cells(model, pool, metadata.image_size, metadata.in_chans)
        assert isinstance(model, TimmModel)
        start_head(model.get_classifier(), config.head_init_scale)
    return model, replace(metadata, pool=pool)


def start_metadata(config: BackboneConfig) -> Metadata:
    """How the weights that `create` starts from take images, without making the model.

    Raises:
        OSError, ValueError: see `backbone`.
    """
    if config.weights == "none":
        return metadata_of(config.random, step=None)
    return read_weights(config.weights).told_metadata(config.weights).without_classifier


def start_head(head: nn.Module, scale: float) -> None:
    """Initialise a layer that gives logits: biases zero, weights small, and `scale` times that."""
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=HEAD_STD)
            parameter.data.mul_(scale)


def create_any(
    metadata: Metadata, outputs: int, drop_path: float = 0.0, pretrained: bool = False
) -> nn.Module:
    """A model of this project, the timm model of `timm:NAME`, or the network of `lineage:NAME`.

    A ConvNet of timm has the stem stride of the metadata; see `fcmae.networks.make_network`.

    Raises:
        ValueError: there is no model of this name; or see `finetune.lineage.networks.create`.
    """
    if metadata.model.startswith(networks.PREFIX):
        return networks.create(metadata, outputs, drop_path, pretrained)
    if not metadata.model.startswith(TIMM):
        if metadata.architecture.attends or metadata.model.startswith("convnext"):
            return create_timm(metadata, outputs, drop_path)
        raise ValueError(f"backbone={metadata.model} must be {TIMM}NAME or {networks.PREFIX}NAME")
    name = metadata.model.removeprefix(TIMM)
    if ":" not in name and not timm.is_model(name):  # local-dir: and hf-hub: are timm's to find
        close = get_close_matches(name, timm.list_models())
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise ValueError(f"backbone={metadata.model}: timm has no such model; {hint}")
    fixed = ":" not in name and timm.get_pretrained_cfg(name).fixed_input_size  # type: ignore[union-attr]
    model = make_network(
        name,
        metadata.stem_stride,
        pretrained=pretrained,
        in_chans=metadata.in_chans,
        num_classes=outputs,
        drop_path_rate=drop_path or None,  # not every model has it
        img_size=metadata.image_size if fixed else None,
    )
    classify_cells(model, metadata.pool, metadata.image_size, metadata.in_chans)
    return model


def save(path: Path, model: nn.Module, metadata: Metadata, task: Task) -> None:
    """Write a fine-tuned model under timm's names; its task is in the header."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    extra_header = {CLASSES: json.dumps(task.names), TASK: json.dumps(asdict(task))}
    save_timm(path, tensors, metadata, extra_header)


def load(path: Path) -> tuple[nn.Module, Metadata, Task]:
    """A fine-tuned model, as `save` wrote it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no head, or its tensors are not those of its model.
    """
    tensors, metadata, extra_header = read_converted(path)
    if TASK not in extra_header:
        raise ValueError(f"{path} has no head; fine-tune it with fcmae finetune")
    try:
        task = Task.of_json(extra_header[TASK])
    except ValueError as error:
        raise ValueError(f"{path}: the metadata under {TASK!r} are damaged: {error}") from error
    model = create_any(metadata, task.outputs)
    fill(model.state_dict(), tensors, path)
    return model, metadata, task
