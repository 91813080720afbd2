"""Signals and the processes that decode images: a worker outlives those that a job is sent."""

import os
import signal
import threading


def outlive_signals(worker: int) -> None:
    """Have a worker work on when a scheduler, or Ctrl-C, signals every process of a job.

    The training process needs its images to finish the step. Only its own SIGTERM ends the worker.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def obey_the_parent() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=obey_the_parent, daemon=True).start()
