"""What a run can do without: a failure of it is told in one line, and training goes on."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fcmae.run.terminal import line_of, say


def tell(text: str, *, error: bool = False) -> None:
    """Print a line at once; where its disk is full, or cannot be written, the line is lost.

    Args:
        text: the line.
        error: print it on standard error, in place of standard output.

    Raises:
        BrokenPipeError: nobody reads the output any more.
    """
    try:
        say(text, error=error, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


class Outage:
    """Something that fails for a while: told once when it begins, and once when it is over.

    Args:
        meanwhile: how training goes on without it, as the end of a sentence.
    """

    def __init__(self, meanwhile: str) -> None:
        self.meanwhile = meanwhile
        self.failures = 0  # in a row

    @contextmanager
    def spared(self, what: str) -> Iterator[None]:
        """Try something; an error, whatever it is, ends the block and nothing else.

        Args:
            what: is tried, such as "writing FILE".
        """
        try:
            yield
        except Exception as error:  # of a library, too, which may raise anything
            self.failures += 1
            if self.failures == 1:
                why = f"{type(error).__name__}: {line_of(error)}"
                self._say(f"warning: {what} failed ({why}); training goes on, {self.meanwhile}")
        else:
            if self.failures:
                self._say(f"{what} works again")
            self.failures = 0

    def _say(self, line: str) -> None:
        with suppress(BrokenPipeError):  # which the next line of the loop meets
            tell(line)
