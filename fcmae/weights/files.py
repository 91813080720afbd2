"""Reading encoder weights, out of our checkpoints and out of what others save and publish."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fcmae.architecture import Architecture
from fcmae.run import checkpoint
from fcmae.run.json_files import parse_json
from fcmae.weights.checkpoints import find_checkpoint, is_checkpoint, read_checkpoint
from fcmae.weights.contents import Content, holds_weights, read_directory, read_file
from fcmae.weights.fetching import fetch, is_remote
from fcmae.weights.finite import refuse_not_finite
from fcmae.weights.inference import infer
from fcmae.weights.metadata import CLASSES, HEADER, SEGMENTER, Metadata, class_names, header_for
from fcmae.weights.recognition import canonical, recognise
from fcmae.weights.safetensors_files import extra_part
from fcmae.weights.vits import with_positions
from fcmae.weights.weight_names import count_classes
from fcmae.weights.wrappings import choose


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of an encoder, and what their file tells about them."""

    tensors: dict[str, Tensor]
    """The encoder's tensors under our names, with a final norm and a classifier, if any."""
    architecture: Architecture
    metadata: Metadata | None
    """The metadata in the file, or None: image size, mean and std are not known then."""
    classes: tuple[str, ...]
    """Names of the classifier's classes, or their numbers if the file does not name them; empty
    without a classifier."""
    extra_header: dict[str, str]
    """What else the header of our file holds, such as the classes and the task of fine-tuning."""
    dropped: dict[str, int]
    """What was left out, such as a decoder, and how many tensors it has."""
    notes: tuple[str, ...]
    """Sentences on what was fetched and chosen, for whoever gave the source."""

    def told_metadata(self, source: str | Path) -> Metadata:
        """The metadata, which have to be in the file at `source` or beside it.

        Raises:
            ValueError: they are not.
        """
        if self.metadata is None:
            raise ValueError(
                f"{source} does not tell the image size, mean and std of its images: take what"
                f" python -m fcmae.convert {source} OUT.safetensors makes of it, whose flags do"
            )
        return self.metadata


def read_weights(source: str | Path, key: str | None = None) -> Weights:
    """Read encoder weights.

    Args:
        source: a checkpoint of ours (a run, a step_* directory, the model.safetensors or the
            ema.safetensors in one); a file of safetensors or PyTorch, in the names of timm, the
            official code or transformers; an ONNX file of ours; a directory of these, as on the
            hub; or `timm:NAME` or `hf:ORG/NAME`, which are fetched.
        key: which encoder to take where a file holds several, see `wrappings.choose`.

    Raises:
        OSError: a file cannot be read or fetched.
        ValueError: the file is damaged, or its tensors are not those of one whole encoder, or not
            finite.
    """
    path, *notes = fetch(str(source)) if is_remote(str(source)) else (Path(source),)
    content = read_content(path)
    header = content.header
    try:
        metadata = Metadata.of_json(header[HEADER]) if HEADER in header else None
    except ValueError as error:
        raise ValueError(f"{path}: the metadata under {HEADER!r} are damaged: {error}") from error
    # not our file: its other keys may mean anything
    extra_header = extra_part(header) if metadata is not None else {}
    if extra_header.pop(SEGMENTER, None) is not None and key is None:
        raise ValueError(
            f"{path} is a segmenter, for which timm and transformers have no model: python -m"
            f" finetune.export {path} OUT.onnx exports all of it, and --key backbone of"
            " fcmae.convert takes its encoder alone"
        )
    try:
        if metadata is not None and metadata.architecture.of_timm:
            return read_network(content, metadata, extra_header, notes)
        tensors, told = choose(content.sets, key)
        known = metadata.architecture if metadata is not None else infer(tensors)
        known.check_encoder()
        kept = canonical(tensors, known, "last" if metadata is None else metadata.pool)
        count = count_classes(kept)
        if CLASSES not in extra_header and count and count == len(content.told.names):
            extra_header = extra_header | {CLASSES: json.dumps(content.told.names)}
        classes = class_names(extra_header, count)
        metadata = metadata or metadata_beside(content, known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    refuse_not_finite(kept, path)
    naming = recognise(tensors)
    return Weights(
        tensors=with_positions(kept, known),
        architecture=known,
        metadata=metadata,
        classes=classes,
        extra_header=extra_header,
        dropped=Counter(part for part in map(naming.drops, tensors) if part is not None),
        notes=(*notes, *content.notes, *told),
    )


def read_network(
    content: Content, metadata: Metadata, extra_header: dict[str, str], notes: Sequence[str]
) -> Weights:
    """Make weights of a network of timm, out of a file of ours.

    Raises:
        ValueError: its tensors are not those of the network.
    """
    from fcmae.weights.networks import classes_of, network_in  # timm: seconds

    architecture = metadata.architecture
    names: type[list[Any]] = list
    named = parse_json(extra_header.get(CLASSES, "[]"), CLASSES, names)
    kept, dropped = network_in(content.sets[""], architecture, len(named), metadata.pool)
    classes = class_names(extra_header, classes_of(kept, architecture))
    return Weights(
        tensors=kept,
        architecture=architecture,
        metadata=metadata,
        classes=classes,
        extra_header=extra_header,
        dropped=dict(dropped),
        notes=(*notes, *content.notes),
    )


def read_content(path: Path) -> Content:
    """Read a file, a directory of the hub, or a checkpoint of ours.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged, or of another kind.
    """
    weights = path.name in (checkpoint.MODEL, checkpoint.EMA)
    if path.is_file() and not (weights and is_checkpoint(path.parent)):
        return read_file(path)
    if holds_weights(path) and not is_checkpoint(path):
        return read_directory(path)
    file = checkpoint.EMA if path.name == checkpoint.EMA else checkpoint.MODEL
    notes = list[str]()
    tensors, metadata = read_checkpoint(find_checkpoint(path, notes.append), file)
    return Content(sets={"": tensors}, header=header_for(metadata, {}), notes=tuple(notes))


def metadata_beside(content: Content, architecture: Architecture) -> Metadata | None:
    """Make metadata of what the files beside weights tell, or None if they do not tell all.

    Raises:
        ValueError: what they tell does not fit the weights.
    """
    told = content.told
    if told.image_size is None or not told.mean or not told.std:
        return None
    architecture = replace(architecture, image_size=told.image_size)
    architecture.check()
    for name, values in (("mean", told.mean), ("std", told.std)):
        if len(values) not in (1, architecture.in_chans):
            raise ValueError(
                f"{name}={values} beside the weights is not for in_chans={architecture.in_chans}:"
                " give the file of weights alone, with flags"
            )
    metadata = Metadata.of(architecture, mean=told.mean, std=told.std, step=None)
    metadata.check()
    return metadata
