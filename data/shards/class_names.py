"""The names of classes in `classes.json` beside shards, in the order of their numbers."""

from pathlib import Path
from typing import cast

from fcmae.run.json_files import parse_json

CLASSES = "classes.json"


def parse_names(content: bytes, where: str) -> list[str]:
    """Read the names that a file of classes lists.

    Args:
        content: The file.
        where: Its path or URL, for errors.

    Raises:
        ValueError: It is no list of names, of which some may be numbers.
    """
    try:
        names = cast("list[object]", parse_json(content, "it", list))
        if not all(isinstance(name, str | int | float) for name in names):
            raise ValueError("it has a value that is no name")
    except ValueError as error:
        raise ValueError(
            f"{where} is no list of the names of classes ({error}); restore the file, or correct"
            " the path or URL of the shards"
        ) from error
    return [str(name) for name in names]


def read_names(file: Path) -> list[str]:
    """Read a file of classes; no names if there is no such file.

    Raises:
        OSError: It cannot be read.
        ValueError: See `parse_names`.
    """
    return parse_names(file.read_bytes(), str(file)) if file.exists() else []
