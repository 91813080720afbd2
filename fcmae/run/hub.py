"""Repositories of the Hugging Face hub, which is asked again while it is busy."""

import random
import time
from pathlib import Path
from typing import Any

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts


def snapshot(name: str, **options: Any) -> Path:
    """Fetch files of a repository into the cache of huggingface_hub, unless they are there.

    Args:
        name: `ORG/NAME`.
        options: of `huggingface_hub.snapshot_download`.

    Raises:
        OSError: they can neither be fetched nor are they in the cache.
        HFValidationError: this is no name of a repository.
        ModuleNotFoundError: huggingface_hub is not installed.
    """
    from huggingface_hub import snapshot_download  # it takes a second

    for pause in PAUSES:
        try:
            return Path(snapshot_download(name, **options))
        except OSError as error:
            if not may_pass(error):
                raise
            time.sleep(pause * random.uniform(0.5, 1))  # so that processes do not all ask at once
    return Path(snapshot_download(name, **options))


def may_pass(error: BaseException | None) -> bool:
    """Whether the hub, or what is in front of it, answered that it is busy or broken."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status in (408, 429) or status >= 500
        error = error.__cause__
    return False
