"""Repositories of the Hugging Face hub, which is asked again while it is busy."""

import random
import time
from pathlib import Path
from typing import Any

from fcmae.run.waiting import Wait, waiting

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

    with waiting(f"fetching {name} from the hub", unit="B") as wait:
        options["tqdm_class"] = counting(wait)
        for pause in PAUSES:
            try:
                return Path(snapshot_download(name, **options))
            except OSError as error:
                if not may_pass(error):
                    raise
                # not all processes ask at once then
                time.sleep(pause * random.uniform(0.5, 1))
        return Path(snapshot_download(name, **options))


def counting(wait: Wait) -> type[Any]:
    """A class of bars for huggingface_hub that draw nothing, and count their bytes in a wait.

    It has one bar or two for the same bytes, of those that come and of those that are written.
    """
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self.of_bytes = options.get("unit") == "B"
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self.of_bytes:
                wait.done = max(wait.done, int(self.n))
                wait.total = max(wait.total or 0, int(self.total or 0)) or None

    return Bar


def may_pass(error: BaseException | None) -> bool:
    """Whether the hub, or what is in front of it, answered that it is busy or broken."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status in (408, 429) or status >= 500
        error = error.__cause__
    return False
