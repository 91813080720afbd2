"""Running a program: its arguments, its errors in one line each, and its exit status."""

import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from safetensors import SafetensorError

from fcmae.run.display import DISPLAY, HELP, without_plain
from fcmae.run.secrets import public
from fcmae.run.terminal import line_of, lost_worker, never_fail, say
from fcmae.run.threads import use_threads

# errors that a user can cause, and that one line explains
EXPECTED = (OSError, ValueError, FloatingPointError, ModuleNotFoundError, SafetensorError)


def run_program(main: Callable[[Sequence[str]], object]) -> None:
    """Run the `main` of a program on the arguments of the command line.

    An error out of `EXPECTED`, or a lost data worker, ends in one line on standard error and exit
    status 1; `python -X dev PROGRAM` shows its traceback. If nobody reads standard output any more,
    as after `| head`, the program ends silently; if its disk is full, with one more such line.
    Passwords and signatures of URLs are taken out of `sys.argv`, which trackers and others record.
    All programs have the flag `--plain`, which is taken out of the arguments.
    """
    arguments = sys.argv[1:]
    sys.argv[1:] = map(public, arguments)
    never_fail()
    use_threads("auto")  # before anything imports torch
    arguments = without_plain(arguments)
    try:
        with DISPLAY.closed_at_end():
            main(arguments)
        flush_output()
    except SystemExit as end:
        if not end.code and {"-h", "--help"}.intersection(arguments):
            with suppress(BrokenPipeError):
                say(*HELP)
        raise
    except Exception as error:
        if not isinstance(error, EXPECTED) and not lost_worker(error):
            raise
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            sys.exit(1)
        if sys.flags.dev_mode:
            raise
        sys.exit(f"error: {line_of(error)}")
    except KeyboardInterrupt:
        say("interrupted", error=True)
        sys.exit(130)  # 128 + SIGINT
    finally:
        with suppress(OSError):  # the error before it, or the signal, says how the program ended
            flush_output()


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def flush_output() -> None:
    """Flush standard output, or close it if nobody reads it any more or it cannot be written.

    Otherwise Python would flush it when it ends, and complain. Source: the note on SIGPIPE in the
    documentation of the module `signal`.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            why = f"standard output cannot be written: {line_of(error)}; the end of it is lost"
            raise OSError(why) from error
