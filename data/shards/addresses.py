"""URLs of shards, which keep their passwords and signatures to themselves."""

from pathlib import Path
from urllib.parse import urlsplit

from fcmae.run.secrets import public


class Address(str):
    """A URL whose text leaves out its password and its query; `whole` has them, for requests alone.

    So whatever is made of the text (messages, names of files, tables) shows no secret, and stays
    the same when a signature is a new one.
    """

    whole: str

    def __new__(cls, url: str) -> "Address":
        self = super().__new__(cls, public(url.partition("?")[0]))
        self.whole = whole(url)
        return self


def is_remote(url: str) -> bool:
    """Whether `url` is a URL, and not a path."""
    return "://" in url


def whole(url: str) -> str:
    """A URL with its password and its query, as a request needs it."""
    return url.whole if isinstance(url, Address) else url


def refuse_cut_off(url: str) -> None:
    """Check that a URL that a user gave is not cut off by its password.

    Raises:
        ValueError: It is; the message does not show it.
    """
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError(
            "a URL of the shards has a port that is no number: if that is a part of its password,"
            " write / as %2F, ? as %3F and # as %23, or keep the password in ~/.netrc"
        ) from error


def directory_of(url: str) -> str:
    """The directory of a shard, as a URL or path like the shard itself; a URL keeps its query."""
    if not is_remote(url):
        return str(Path(url).parent)
    path, mark, query = whole(url).partition("?")
    return Address(f"{path.rpartition('/')[0]}{mark}{query}")


def within(directory: str, name: str) -> str:
    """The path or URL of a file in a directory that `directory_of` gave, with its query."""
    if not is_remote(directory):
        return str(Path(directory, name))
    path, mark, query = whole(directory).partition("?")
    return Address(f"{path}/{name}{mark}{query}")


def identity(url: str) -> str:
    """What tells a remote file from others, whatever its signature is.

    A query is no part of it, unless the path names no tar and the query may be all that does.
    """
    return url if url.endswith((".tar", ".gz", ".tgz")) else whole(url)


def without_query(url: str) -> str:
    """A URL whose request has the password, but not the query."""
    return Address(whole(url).partition("?")[0])
