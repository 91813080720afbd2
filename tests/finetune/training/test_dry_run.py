"""A dry run tells what holds the steps, and how many cores feed them."""

import time
from typing import Any

import pytest
import torch

from finetune.training.dry_run import DryRun, holder, seconds_per_sample

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Slow:
    """Images of which each takes 10 ms."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        time.sleep(0.01)
        return {}

    def name(self, sample: int) -> str:
        return str(sample)


@pytest.mark.parametrize(
    ("wait", "busy", "device", "told"),
    [
        (0.4, 0.6, GPU, "the loader holds the run: 40% of a step waits for images"),
        (0.4, 0.6, CPU, "the loader holds the run: 40% of a step waits for images"),
        (0.01, 0.97, GPU, "the device holds the run: it computes 97% of a step"),
        (0.01, 0.5, CPU, "the device holds the run: it computes 50% of a step"),
        (0.01, 0.5, GPU, "the host holds the run: the device computes 50% of a step, and waits"),
    ],
)
def test_one_line_says_what_holds_a_run(
    wait: float, busy: float, device: torch.device, told: str
) -> None:
    assert holder(wait, busy, device).startswith(told)


@pytest.mark.parametrize(("steps", "profiled"), [(10, 3), (3, 3), (2, 2)])
def test_the_last_steps_are_profiled_and_none_is_lost(steps: int, profiled: int) -> None:
    dry = DryRun(CPU)
    seen = list[int]()
    a = torch.randn(8, 8)
    for step in dry.over(iter(range(steps)), steps):
        torch.mm(a, a)
        if step < steps - profiled:
            torch.relu(a)  # in none of the last ones
        seen.append(step)
    assert seen == list(range(steps))
    kernels = {kernel.name: kernel for kernel in dry.kernels}
    assert kernels["aten::mm"].launches == 1
    assert "aten::relu" not in kernels
    assert 0 < dry.kernel_s < 1


def test_reading_is_timed_on_one_core_for_each_image() -> None:
    assert seconds_per_sample(Slow()) == pytest.approx(0.01, rel=0.5)
