"""Signals to worker processes, which go on decoding images when their job is told to stop."""

import os
import signal
import threading
import time

GRACE = 10.0  # seconds in which a step ends that images are still needed for


def outlive_signals(worker: int) -> None:
    """Let this worker ignore signals that a scheduler or Ctrl-C sends to every process of a job.

    The training process still needs images to finish its step. Only its own SIGTERM ends a worker.
    Where the system does not tell whose a signal is, as on macOS, any SIGTERM ends it after GRACE.

    Args:
        worker: The number of the worker, which is not used.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def obey_the_parent() -> None:
        if hasattr(signal, "sigwaitinfo"):
            while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
                pass
        else:
            signal.sigwait({signal.SIGTERM})
            time.sleep(GRACE)
        os._exit(0)

    threading.Thread(target=obey_the_parent, daemon=True).start()
