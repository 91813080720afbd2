"""The depthwise convolution in Triton: the reference's values and gradients, code without spills.

Where there is no GPU, Triton's interpreter runs the kernels (`tests/conftest.py`).
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

from fcmae.masking import draw_visible, slots
from fcmae.sparse.gathered import Gathered, ScatterConvolve
from tests.support.generators import generator
from tests.support.programs import run

pytest.importorskip("triton")
from fcmae.sparse import depthwise_gpu, gathered
from fcmae.sparse.depthwise_gpu import CHANNELS, Depthwise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GRID = (3, 4)
SLOW = pytest.mark.slow  # for the interpreter


def inputs_of(
    s: int, k: int, d: int, dtype: torch.dtype, ratio: float = 0.6
) -> tuple[Gathered, list[Tensor]]:
    """Which patches of two images are visible, and x, weight and bias that need gradients."""
    n = GRID[0] * GRID[1]
    visible = draw_visible(2, n, ratio, generator=generator(0)).to(DEVICE)
    sparse = Gathered(visible, GRID)
    shapes = ((*sparse.visible.shape, s, s, d), (d, 1, k, k), (d,))
    tensors = [torch.randn(shape, generator=generator(i)) for i, shape in enumerate(shapes)]
    return sparse, [t.to(DEVICE, dtype).requires_grad_() for t in tensors]


def by_kernels(sparse: Gathered, tensors: list[Tensor]) -> Tensor:
    table = slots(sparse.chosen).int()
    return Depthwise.apply(*tensors, sparse.visible, table, GRID[1])  # type: ignore[no-any-return]


def by_operations(sparse: Gathered, tensors: list[Tensor]) -> Tensor:
    where = sparse.runs_of(tensors[0].shape[2])
    return ScatterConvolve.apply(*tensors, *where, GRID)  # type: ignore[no-any-return]


def compare(
    sparse: Gathered, tensors: list[Tensor], exact: list[Tensor], **tolerances: Any
) -> None:
    """Hold values and all gradients of the kernels to those of PyTorch's operations."""
    found, expected = by_kernels(sparse, tensors), by_operations(sparse, exact)
    torch.testing.assert_close(found, expected, check_dtype=False, **tolerances)
    grad = torch.randn(found.shape, generator=generator(9)).to(found)
    ours = torch.autograd.grad(found, tensors, grad)
    theirs = torch.autograd.grad(expected, exact, grad.to(expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, check_dtype=False, **tolerances)


@pytest.mark.parametrize("s", [pytest.param(8, marks=SLOW), 4, 2, 1])
@pytest.mark.parametrize("k", [pytest.param(3, marks=SLOW), 7])
def test_values_and_gradients_are_those_of_dense_convolution(s: int, k: int) -> None:
    sparse, tensors = inputs_of(s, k, d=5, dtype=torch.float64)
    compare(sparse, tensors, tensors, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("ratio", [pytest.param(0.0, marks=SLOW), 0.9])
def test_all_patches_or_one_may_be_visible(ratio: float) -> None:
    sparse, tensors = inputs_of(2, 5, d=3, dtype=torch.float64, ratio=ratio)
    compare(sparse, tensors, tensors, rtol=1e-11, atol=1e-11)


def test_more_channels_than_a_program_has() -> None:
    sparse, tensors = inputs_of(1, 3, d=CHANNELS + 5, dtype=torch.float64)
    compare(sparse, tensors, tensors, rtol=1e-11, atol=1e-11)


@SLOW
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_since_sums_are_in_float32(dtype: torch.dtype) -> None:
    sparse, tensors = inputs_of(4, 7, d=4, dtype=dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    compare(sparse, tensors, exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


def test_the_gradient_is_summed_in_several_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse, tensors = inputs_of(2, 3, d=3, dtype=torch.float64)
    monkeypatch.setattr(depthwise_gpu, "PROGRAMS", 7)  # 3 rows of taps, of 2 chunks each
    compare(sparse, tensors, tensors, rtol=1e-11, atol=1e-11)


def test_the_compiler_is_told_the_truth_about_shapes_strides_and_types() -> None:
    sparse, (x, weight, bias) = inputs_of(2, 3, d=3, dtype=torch.bfloat16)
    x, weight, bias = x.detach(), weight.detach(), bias.detach()
    where = (sparse.visible, slots(sparse.chosen).int(), GRID[1])
    transposed = x.transpose(2, 3)
    for given in (bias, None):
        opcheck(torch.ops.fcmae.depthwise_gpu, (transposed, weight, given, *where))
    opcheck(torch.ops.fcmae.depthwise_gpu_gradients, (transposed, x, *where, 3))


def test_the_gathered_layout_takes_the_kernels_where_they_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under autocast sites are in half precision, and the weight in float32."""
    monkeypatch.setattr(gathered, "kernels_on", lambda _: Depthwise)
    sparse, (x, *_) = inputs_of(2, 3, d=3, dtype=torch.float32)
    conv = nn.Conv2d(3, 3, kernel_size=3, padding=1, groups=3, device=DEVICE)
    assert conv.bias is not None
    inputs = [x, conv.weight, conv.bias]
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        found = sparse.depthwise(x, conv)
    assert found.dtype == torch.bfloat16
    expected = by_operations(sparse, inputs)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    ours = torch.autograd.grad(found.float().sum(), inputs)
    theirs = torch.autograd.grad(expected.sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


COMPILED = """
import torch
from torch import nn

from fcmae.masking import draw_visible
from fcmae.sparse import gathered
from fcmae.sparse.depthwise_gpu import Depthwise

gathered.kernels_on = lambda device: Depthwise
sparse = gathered.Gathered(draw_visible(2, 4, 0.5), (2, 2))
x = torch.randn(2, 2, 2, 2, 3, requires_grad=True)
conv = nn.Conv2d(3, 3, kernel_size=3, padding=1, groups=3)
inputs = (x, conv.weight, conv.bias)
whole = torch.compile(sparse.depthwise, fullgraph=True, backend="aot_eager")
for call in (sparse.depthwise, whole):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = call(x, conv)
    print(*(float(g.abs().sum()) for g in torch.autograd.grad(made.float().square().sum(), inputs)))
"""


@SLOW
@pytest.mark.skipif(DEVICE == "cuda", reason="interprets the kernels")
def test_compiled_code_has_no_break_where_kernels_are() -> None:
    done = run("-c", COMPILED)
    plain, compiled = done.stdout.splitlines() or [done.stderr, ""]
    assert plain == compiled


@pytest.mark.skipif(DEVICE == "cuda", reason="is about machines without a GPU")
def test_where_kernels_do_not_run_a_line_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert gathered.kernels_on.__wrapped__(torch.device("cuda")) is None
    told = capsys.readouterr().err
    assert told.startswith("the depthwise convolution runs on whole grids, and slower (")
    assert gathered.kernels_on(torch.device("cpu")) is None


SPILLS = """
import re
import subprocess
import sys
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from fcmae.sparse import depthwise_triton, gathered
from fcmae.sparse.depthwise_gpu import CHANNELS, PATCHES, PATCHES_OF_GRADIENT, WARPS

where = {"visible": "*i64", "slots": "*i32"}
arrays = {
    "convolve": {"x": "*bf16", "out": "*bf16", "taps": "*fp32", "bias": "*fp32"} | where,
    "correlate": {"x": "*bf16", "grad": "*bf16", "partial": "*fp32"} | where,
}
for capability, processor in ((80, "sm_80"), (90, "sm_90a")):
    for name, patches, more in (
        ("convolve", PATCHES, {"FLIPPED": False}),
        ("convolve", PATCHES, {"FLIPPED": True}),
        ("correlate", PATCHES_OF_GRADIENT, {}),
    ):
        for side in patches:
            kernel = getattr(depthwise_triton, name)
            constants = dict(D=96, S=side, K=7, SUM=tl.float32, P=patches[side], C=CHANNELS) | more
            types = {
                word: "constexpr" if word in constants else arrays[name].get(word, "i32")
                for word in kernel.arg_names
            }
            aligned = {
                (i,): [["tt.divisibility", 16]]
                for i, word in enumerate(kernel.arg_names)
                if word in arrays[name]
            }
            made = triton.compile(
                ASTSource(kernel, types, constants, aligned),
                GPUTarget("cuda", capability, 32),
                {"num_warps": WARPS},
            )
            file = Path(sys.argv[1], "kernel.ptx")
            file.write_text(made.asm["ptx"])
            ptxas = get_ptxas(capability)
            path = ptxas[0] if isinstance(ptxas, tuple) else ptxas.path  # before Triton 3.4
            words = [path, "-v", f"-arch={processor}", file, "-o", "/dev/null"]
            told = subprocess.run(words, capture_output=True, text=True, check=True).stderr
            (spilled,) = re.findall("([0-9]+) bytes spill stores", told)
            print(name, side, more, processor, spilled)
"""


@pytest.mark.slow  # compiles 24 kernels
def test_kernels_keep_their_sums_in_registers(tmp_path: Path) -> None:
    # a new process: those of other tests begin as copies of one that interprets
    env = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    words = [sys.executable, "-c", SPILLS, tmp_path]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    spilled = [line.rpartition(" ")[2] for line in done.stdout.splitlines()]
    assert spilled == ["0"] * 24, done.stdout + done.stderr
