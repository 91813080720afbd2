"""Data sets on the Hugging Face hub, `hf://datasets/ORG/NAME`, fetched and kept by its library."""

import re
from pathlib import Path

from fcmae.run.hub import snapshot

ADDRESS = re.compile(r"hf:/+datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")  # a Path drops one /


def fetched(source: Path) -> Path:
    """Where a source lies on this machine: a data set of the hub is fetched, or found in its cache.

    Args:
        source: A path, or `hf://datasets/ORG/NAME`, which may go on with `@REVISION` and with
            `/FOLDER` or `/TABLE` for a part of it.

    Raises:
        ConnectionError: The data set is not in the cache, and cannot be fetched.
        ModuleNotFoundError: huggingface_hub is not installed.
    """
    address = ADDRESS.fullmatch(source.as_posix())
    if address is None:
        return source
    name, revision, part = address.groups()
    try:
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        message = "data sets of the hub need its library: pip install huggingface_hub"
        raise ModuleNotFoundError(message) from error
    wanted = [part, f"{part}/**"] if part else None
    try:
        folder = snapshot(name, repo_type="dataset", revision=revision, allow_patterns=wanted)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConnectionError(
            f"hf://datasets/{name} is not in the cache and cannot be fetched"
            f" ({str(error).splitlines()[0]}); where the network is, run 'hf download --repo-type"
            f" dataset {name} --local-dir DIR', and name DIR"
        ) from error
    return folder / (part or "")
