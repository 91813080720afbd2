"""What the tests of shards on a server share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.shards.index import Shard
from tests.support.servers import Server, serve


@pytest.fixture
def server(local: list[Shard]) -> Iterator[Server]:
    """A web server of the folder in which the file's own `local` shards lie."""
    with serve(Path(local[0].url).parent) as running:
        yield running
