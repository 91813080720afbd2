"""A directory in the format of timm's models on the Hugging Face hub, with a model card.

`timm.create_model("local-dir:DIRECTORY", pretrained=True)` loads it; uploaded, "hf-hub:USER/NAME".
So do transformers' `AutoModel` and `AutoImageProcessor`, as their wrapper of timm's models.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timm.models import save_for_hf
from torch import nn

from fcmae.networks import STEM_STRIDE
from fcmae.run.files import staged, write_json
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.saving import save_tensors
from fcmae.weights.timm_creation import vit_args
from fcmae.weights.timm_protocols import TimmModel

TITLES = {"convnextv2": "ConvNeXt V2", "convnext": "ConvNeXt", "mae_vit": "ViT"}


class Told(NamedTuple):
    """What a card tells of a kind of network."""

    method: str
    pooled: str
    levels: str
    sides: str


OF_CONVNET = Told(
    method="a fully convolutional masked autoencoder ([FCMAE](https://arxiv.org/abs/2301.00808))",
    pooled="model.forward_features(images).mean((2, 3))",
    levels="the four stages",
    sides="sides are multiples of {patch}",
)
OF_VIT = Told(
    method="a masked autoencoder ([MAE](https://arxiv.org/abs/2111.06377))",
    pooled="model.forward_head(model.forward_features(images), pre_logits=True)",
    levels="the last blocks",
    sides="patches of {patch} px; img_size=(HEIGHT, WIDTH) takes other sizes",
)
CARD = """\
---
library_name: timm
pipeline_tag: {task}
tags:
- timm
- {task}
- {family}
- fcmae
---
# {model}

{title}{origin}.

```python
import timm

model = timm.create_model("local-dir:DIRECTORY", pretrained=True).eval()  # or "hf-hub:USER/NAME"
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
features = {pooled}  # [batch, {dim}]
```

`features_only=True` gives the maps of {levels}, `num_classes=N` a fresh classifier.

| | |
|---|---|
| parameters | {parameters:,} |
| images | {in_chans} channels, trained at {height} x {width} px; {sides} |
| preprocessing | shorter side resized bicubically, centre cut out, scaled to 0 ... 1, normalised |
| the scale 0 ... 1 | {scale} |
| mean | {mean} |
| standard deviation | {std} |
{extra_header}"""


def write_hub(
    out: Path,
    model: nn.Module,
    metadata: Metadata,
    classes: Sequence[str],
    extra_header: Mapping[str, str],
) -> None:
    """Write a timm model as a directory in the format of the Hugging Face hub.

    Args:
        out: the directory, which is empty or does not exist.
        model: timm's model with the weights.
        metadata: their metadata, out of which preprocessing and card are made. The header of the
            weights holds it, too, so that `fcmae.convert` reads OUT/model.safetensors back.
        classes: names of the classifier's classes; empty without a classifier.
        extra_header: what else our files tell about these weights.

    Raises:
        FileExistsError: something other than an empty directory is at `out`.
        ValueError: the stem stride is one that timm cannot express.
    """
    architecture = metadata.architecture
    of_timm = architecture.of_timm
    of_stem = architecture.is_convnext and metadata.stem_stride == 2
    if of_stem or (of_timm and metadata.stem_stride != STEM_STRIDE):
        way = "onnx" if of_timm else "hf"
        raise ValueError(
            f"stem_stride={metadata.stem_stride} is not among timm's arguments, so that timm cannot"
            f" load it from a directory: take --to {way}, or --to timm and"
            " fcmae.weights.timm_models.load_timm"
        )
    with staged(out) as partial:
        save_for_hf(
            model,
            str(partial),
            model_config={"label_names": list(classes)},
            model_args=model_args(metadata),
            safe_serialization=True,
        )
        config = json.loads((partial / "config.json").read_text())
        # timm moves what stands beside `model_args`, or adds it, which transformers passes on twice
        config["model_args"] = model_args(metadata)
        write_json(partial / "config.json", config)
        header = header_for(metadata, extra_header)  # weights again, since timm writes no header
        save_tensors(partial / "model.safetensors", model.state_dict(), header)
        (partial / "README.md").write_text(
            card(model, metadata, classes, extra_header), encoding="utf-8"
        )


def model_args(metadata: Metadata) -> dict[str, Any]:
    """The arguments of timm's model, which only the newest versions of timm write themselves."""
    architecture = metadata.architecture
    if architecture.of_timm:
        return {"in_chans": metadata.in_chans}
    if architecture.is_vit:
        return vit_args(metadata)
    return {
        "in_chans": metadata.in_chans,
        "depths": architecture.size.depths,
        "dims": architecture.size.widths,
        "patch_size": metadata.stem_stride,
    }


def card(
    model: nn.Module, metadata: Metadata, classes: Sequence[str], extra_header: Mapping[str, str]
) -> str:
    """Write the model card: what the weights are, how to load them, what images they expect."""
    architecture = metadata.architecture
    assert isinstance(model, TimmModel)
    patch = architecture.patch_size
    told = OF_VIT if architecture.is_vit else OF_CONVNET
    return CARD.format(
        task="image-classification" if classes else "image-feature-extraction",
        family=architecture.family,
        model=metadata.model,
        title=TITLES.get(architecture.family, f"timm's {architecture.family}"),
        origin=(
            f", pretrained without labels as {told.method}, step {metadata.step}"
            if metadata.step
            else ", of no known pretraining"
        ),
        dim=model.num_features,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        in_chans=metadata.in_chans,
        height=metadata.image_size[0],
        width=metadata.image_size[1],
        pooled=told.pooled,
        levels=told.levels,
        sides=told.sides.format(patch=patch),
        scale=metadata.scale,
        mean=", ".join(map(str, metadata.channel_mean)),
        std=", ".join(map(str, metadata.channel_std)),
        extra_header="".join(
            f"| {key} | `{value}` |\n" for key, value in sorted(extra_header.items())
        ),
    )
