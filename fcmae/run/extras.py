"""The extras of the package: an import that fails says which one brings the library."""

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def extra(name: str, what: str) -> Generator[None]:
    """Say which extra brings a library, where an import inside this context does not find it.

    Args:
        name: the extra in pyproject.toml.
        what: the beginning of a sentence on what cannot be done without, such as "TIFF images
            need".

    Raises:
        ModuleNotFoundError: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{what} the extra: pip install 'fcmae[{name}]'"
        raise ModuleNotFoundError(message) from error
