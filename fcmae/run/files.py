"""Encoder weights as models that others load, and what is written for them, whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A path beside `out` to write a file or a directory at, which becomes `out` at the end.

    Raises:
        FileExistsError: there is something at `out`, other than an empty directory.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not written over: remove it or name another")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{out.name}.", suffix=".tmp", dir=out.parent) as directory:
        partial = Path(directory) / out.name
        yield partial
        partial.replace(out)
