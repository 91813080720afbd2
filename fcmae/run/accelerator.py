"""The accelerator of a program: accelerate's, whose lines hold texts of others as they are."""

from typing import Any

import torch
from accelerate import Accelerator

from fcmae.run.terminal import say


class LineAccelerator(Accelerator):
    """Prints each text as one line, see `fcmae.run.terminal`.

    Args:
        options: of accelerate. Without an accelerator it takes the CPU, where accelerate would
            start no processes otherwise.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(cpu=not torch.accelerator.is_available(), **options)

    def print(self, *texts: object, **options: Any) -> None:
        """Print texts as a line, on one process of a machine alone."""
        if self.is_local_main_process:
            say(" ".join(map(str, texts)), **options)
