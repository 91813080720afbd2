"""Weights from the Hugging Face hub, fetched once and cached: `timm:NAME` and `hf:ORG/NAME`."""

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fcmae.run.hub import snapshot
from fcmae.run.yaml_files import parse_yaml
from fcmae.weights.contents import WHOLE, holds_weights, told_by

TIMM = "timm:"
HUB = "hf:"
BESIDE = ["*.json", "README.md"]
SAFETENSORS = ["model*.safetensors", "open_clip_model.safetensors"]
PICKLED = ["pytorch_model*.bin", "open_clip_pytorch_model.bin"]


def is_remote(source: str) -> bool:
    """Whether weights have to be fetched."""
    return source.startswith((TIMM, HUB))


def fetch(source: str) -> tuple[Path, str]:
    """Fetch weights into the cache of huggingface_hub, unless they are there.

    Args:
        source: `timm:NAME`, a pretrained ConvNeXt of timm; or `hf:ORG/NAME`, a model on the hub, or
            `hf:ORG/NAME@REVISION`.

    Returns:
        The directory, and a sentence that names the licence.

    Raises:
        OSError: it can neither be fetched nor is it in the cache.
        ValueError: there is no such name, or no weights are under it.
    """
    from huggingface_hub.errors import HFValidationError  # it takes a second

    named = hub_name(source) if source.startswith(TIMM) else source.removeprefix(HUB)
    name, _, revision = named.partition("@")
    try:
        for patterns in (SAFETENSORS, PICKLED):
            directory = snapshot(
                name, revision=revision or None, allow_patterns=[*BESIDE, *patterns]
            )
            if holds_weights(directory):
                return directory, f"{source} is {name}, licence {licence_of(directory)}"
    except HFValidationError as error:
        raise ValueError(f"{source} must be {HUB}ORG/NAME: {error}") from error
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise OSError(
            f"{source} can neither be fetched ({first}) nor is it in the cache: run hf download"
            f" {name} where there is a network, and give the directory that it prints, or a copy"
        ) from error
    raise ValueError(f"{source} holds none of {', '.join(WHOLE)}: download the file, and give that")


def hub_name(source: str) -> str:
    """Find where on the hub timm keeps the weights of `timm:NAME`.

    Raises:
        ValueError: timm has no such weights of a ConvNeXt, or not on the hub.
    """
    import timm  # it takes seconds

    name = source.removeprefix(TIMM)
    known = timm.list_pretrained("convnext*")
    if name not in known and name not in {tagged.partition(".")[0] for tagged in known}:
        close = get_close_matches(name, known, 4)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_pretrained()"
        raise ValueError(f"{source}: timm has no weights of a ConvNeXt of this name; {hint}")
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise ValueError(f"{source} is not on the hub: download its file, and give that")
    return config.hf_hub_id


def licence_of(directory: Path) -> str:
    """Read the licence of fetched weights: timm's config tells it, or the head of their card."""
    licence = told_by(directory).licence
    card = directory / "README.md"
    if licence is None and card.is_file():
        _, *parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
        head: Any = None
        with suppress(ValueError):  # others' card is no reason to have no weights
            head = parse_yaml(parts[0], card) if len(parts) == 2 else None
        if isinstance(head, dict):
            licence = head.get("license_name") or head.get("license")
    return licence or "not stated: see its page"
