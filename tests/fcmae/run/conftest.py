"""What tests of sessions change of their process, and put back."""

import signal
from collections.abc import Iterator

import pytest

from fcmae.run.stopping import STATUS


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Put the handlers of signals back that a session exchanges."""
    handlers = {number: signal.getsignal(number) for number in STATUS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
