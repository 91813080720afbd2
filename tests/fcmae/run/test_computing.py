"""What a config leaves to the device is chosen once, and PyTorch is set up for it."""

import os
from collections.abc import Iterator

import pytest
import torch

from fcmae.run.compiling import WORTH
from fcmae.run.computing import WORKSPACE, accelerator_or_cpu, settled
from fcmae.run.config import parse
from fcmae.run.options import ComputeConfig
from finetune.training.config import TrainConfig

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Other tests run as they do without these."""
    told = os.environ.get(WORKSPACE)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop(WORKSPACE, None)
    os.environ.update({} if told is None else {WORKSPACE: told})


@pytest.mark.parametrize(("seen", "expected"), [(torch.device("meta"), "meta"), (None, "cpu")])
def test_the_cpu_stands_in_where_torch_sees_no_accelerator(
    seen: torch.device | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator that torch was built for, and does not find, is none."""

    def current(*, check_available: bool = False) -> torch.device | None:
        return seen if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current)
    assert accelerator_or_cpu() == torch.device(expected)


def test_a_cpu_computes_in_fp32_and_as_the_model_is_written() -> None:
    before = torch.get_float32_matmul_precision()
    found = settled(ComputeConfig(), CPU, compiles=True, strict=True)
    assert (found.precision, found.compile) == ("fp32", False)
    assert torch.get_float32_matmul_precision() == before


def test_what_a_user_says_stays() -> None:
    said = ComputeConfig(precision="fp16", compile=True)
    assert settled(said, CPU, compiles=False, strict=True) == said


def test_the_help_tells_from_how_many_images_on_auto_compiles(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # tyro breaks numbers in fewer, has two columns in more
    with pytest.raises(SystemExit):
        parse(TrainConfig, ["--help"], description="")
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"in fine-tuning from {WORTH:,} images on, counted over all epochs" in told


@pytest.mark.parametrize("strict", [True, False])
def test_operations_are_deterministic_unless_the_config_says_otherwise(strict: bool) -> None:
    settled(ComputeConfig(), CPU, compiles=True, strict=strict)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled() != strict
    assert os.environ[WORKSPACE] in (":4096:8", ":16:8")  # what cuBLAS needs for it
    settled(ComputeConfig(deterministic=False), CPU, compiles=True, strict=strict)
    assert not torch.are_deterministic_algorithms_enabled()
