"""A directory for transformers: model, configuration and image processor.

`AutoModel` loads it as ConvNextV2Model or, for V1, as ConvNextModel. If there is a classifier,
`AutoModelForImageClassification` loads it, too. Its `patch_size` is our stem stride.
`AutoImageProcessor` needs timm: it gives the pixels of `data.fitting` to the bit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fcmae.layers import EPS
from fcmae.run.extras import extra
from fcmae.run.files import staged, write_json
from fcmae.run.terminal import told_apart
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.timm_creation import preprocessing
from fcmae.weights.weight_names import hf_names

with extra("export", "--to hf needs"):
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

# The processor of transformers that makes timm's transform. Its own ones cut the centre a pixel off
# for a quarter of all pictures, which changes features by up to a twentieth.
PROCESSOR = "TimmWrapperImageProcessor"


def write_hf(
    out: Path,
    tensors: Mapping[str, Tensor],
    metadata: Metadata,
    classes: Sequence[str],
    extra_header: Mapping[str, str],
) -> None:
    """Write weights as a directory that transformers loads.

    Args:
        out: the directory, which is empty or does not exist.
        tensors: the weights under our names, with a final norm.
        metadata: their metadata, out of which configuration and preprocessing are made.
        classes: names of the classifier's classes; empty without a classifier.
        extra_header: what else our files tell about these weights.

    Raises:
        FileExistsError: something other than an empty directory is at `out`.
    """
    architecture = metadata.architecture
    family = architecture.family
    config = AutoConfig.for_model(
        family,
        num_channels=metadata.in_chans,
        patch_size=metadata.stem_stride,
        hidden_sizes=list(architecture.size.widths),
        depths=list(architecture.size.depths),
        layer_norm_eps=EPS,
        image_size=list(metadata.image_size),
        architecture=metadata.model,
        pretrained_cfg=preprocessing(metadata),
        image_processor_type=PROCESSOR,
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(told_apart(classes))},
        fcmae=header_for(metadata, extra_header),
    )
    kind = AutoModelForImageClassification if classes else AutoModel
    with torch.device("meta"):
        model = kind.from_config(config)
    named = hf_names(tensors, architecture)
    if classes:
        named = {k if k.startswith("classifier.") else f"{family}.{k}": named[k] for k in named}
    model.load_state_dict(named, assign=True)
    with staged(out) as partial:
        model.save_pretrained(partial)
        write_json(
            partial / "preprocessor_config.json",
            {"image_processor_type": PROCESSOR, "pretrained_cfg": preprocessing(metadata)},
        )
