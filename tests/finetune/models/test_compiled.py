"""A compiled forward pass sees batches of one size alone, and gives what the model gives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from finetune.models.compiled import WORTH, Filled, frozen
from tests.support.programs import run

COUNTING = """
import torch
from torch import nn
from torch._dynamo.utils import counters
from fcmae.run.compiling import eager
from finetune.models.compiled import Filled
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
    def forward(self, x):
        return x + self.layer(x).relu()
model = nn.Sequential(Block(), Block(), Block()).eval()
fast = Filled(model, model, 4, print)
for b in (4, 4, 1, 3):
    x = torch.randn(b, 3)
    with torch.no_grad():
        found = fast(x)
        with eager():
            torch.testing.assert_close(found, model(x))
print("graphs:", counters["stats"]["unique_graphs"])
"""


@pytest.fixture
def forward() -> tuple[list[int], Callable[[Tensor], Tensor]]:
    """A forward pass, and the sizes of the batches that it sees."""
    seen = list[int]()

    def doubled(x: Tensor) -> Tensor:
        seen.append(len(x))
        return 2 * x

    return seen, doubled


def test_a_smaller_batch_is_filled_up(
    forward: tuple[list[int], Callable[[Tensor], Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, doubled = forward
    fast = Filled(nn.Identity(), doubled, 4, print)
    monkeypatch.setattr(fast, "begun", True)  # nothing is compiled here
    for b in (4, 3, 1):
        x = torch.randn(b, 2)
        assert torch.equal(fast(x), 2 * x)
    assert seen == [4, 4, 4]


@pytest.mark.parametrize(("device", "images"), [("cpu", WORTH), ("cuda", WORTH - 1)])
def test_few_images_and_cpus_run_the_model_as_it_is_written(
    device: str, images: int, forward: tuple[list[int], Callable[[Tensor], Tensor]]
) -> None:
    seen, doubled = forward
    at = torch.device(device)
    found = frozen(nn.Identity(), doubled, images=images, batch_size=4, device=at, say=print)
    found(torch.ones(3, 2))
    assert seen == [3]
    many = frozen(
        nn.Identity(),
        doubled,
        images=WORTH,
        batch_size=4,
        device=torch.device("cuda"),
        say=print,
    )
    assert isinstance(many, Filled)


@pytest.mark.slow
def test_batches_of_any_size_share_what_was_compiled_for_the_first() -> None:
    done = run("-c", COUNTING)
    assert done.returncode == 0, done.stderr
    assert "graphs: 1\n" in done.stdout
