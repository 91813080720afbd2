"""Hand-written functions of the gathered layout: equal to their plain twins, gradients and all.

Tolerances are for float64, whose sums here have at most some thousand terms.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from fcmae import FCMAE, draw_visible
from fcmae.layers import GrnMlp
from fcmae.masking import indices
from fcmae.sparse import grn_mlp, grn_mlp_cpu
from fcmae.sparse.depthwise_cpu import loops
from fcmae.sparse.gathered import Gathered, ScatterConvolve, TapLoops
from fcmae.sparse.grn_mlp import FusedGrnMlp, fused, plain
from tests.support.generators import generator
from tests.support.models import convnext_of, plain_of
from tests.support.namespaces import run_after
from tests.support.programs import lines_of, run


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).requires_grad_()


def mlp_of(d: int) -> GrnMlp:
    """One in which GRN does something."""
    mlp = GrnMlp(d).double()
    with torch.no_grad():
        mlp.grn.weight.copy_(random(4 * d, seed=1))
        mlp.grn.bias.copy_(random(4 * d, seed=2))
    return mlp


def norm_over_rows(a: Tensor) -> Tensor:
    return a.square().sum(1, keepdim=True).sqrt()


def test_gradients_of_the_mlp_are_those_of_its_values() -> None:
    shapes = ((2, 5, 3), (12, 3), (12,), (12,), (12,), (3, 12), (3,))
    inputs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    assert gradcheck(lambda *tensors: FusedGrnMlp.apply(*tensors, True), inputs)


@pytest.mark.parametrize("shape", [(3, 600, 4), (5, 7, 8), (1, 2000, 2)])  # 2, 5, 1 images a chunk
def test_fused_mlp_equals_plain_in_values_and_every_gradient(shape: tuple[int, int, int]) -> None:
    mlp = mlp_of(shape[-1])
    x, seen = random(*shape), random(*shape, seed=3).detach()
    inputs = [x, *mlp.parameters()]
    ours = fused(x, mlp, compiled=True)
    theirs = plain(x, mlp, norm_over_rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, seen),
        torch.autograd.grad(theirs, inputs, seen),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_silent_channel_has_no_gradient_through_its_norm() -> None:
    mlp = mlp_of(4)
    with torch.no_grad():  # gelu(0) = 0 everywhere: the norm of channel 3 is 0
        mlp.fc1.weight[3] = 0
        mlp.fc1.bias[3] = 0
    x = random(2, 6, 4)
    fused(x, mlp, compiled=True).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert mlp.fc1.weight.grad is not None
    assert mlp.fc1.weight.grad.isfinite().all()


def test_statistics_of_the_mlp_do_not_overflow_in_half_precision() -> None:
    mlp = mlp_of(8).float()
    x = torch.full((1, 4, 8), 1e3).half()  # activations of some 500, whose squares float16 lacks
    with torch.autocast("cpu", dtype=torch.float16):
        y = fused(x, mlp, compiled=True)
    assert y.dtype == torch.float16
    assert y.isfinite().all()


@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_passes_of_the_mlp_round_once_what_float64_gives(threads: int) -> None:
    h, dz = (4 * random(3, 7, 20, seed=i).detach().bfloat16() for i in (0, 1))  # |h| up to 16
    factor, slope = (random(3, 1, 20, seed=i).detach().float() for i in (2, 3))
    beta, a = random(20, seed=4).detach().float(), F.gelu(h)
    exact = [t.double() for t in (h, a, dz, factor, slope, beta)]
    z, df = grn_mlp.z_and_df(exact[1], exact[2], exact[3], exact[5])
    dh, db1 = grn_mlp.dh_and_db(*exact[:5])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = grn_mlp_cpu.z_and_df(a, dz, factor, beta)
        found += grn_mlp_cpu.dh_and_db(h, a, dz, factor, slope)
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(found, (z, df, dh, db1), strict=True):
        rounding = 2**-8 if ours.dtype == torch.bfloat16 else 1e-5  # of float32: sums cancel
        torch.testing.assert_close(ours.double(), theirs, rtol=rounding, atol=1e-4)


def test_compiled_passes_of_the_mlp_keep_what_is_not_finite() -> None:
    h, one = torch.zeros(1, 1, 4, dtype=torch.bfloat16), torch.ones(1, 1, 4)
    dz = torch.tensor([[[torch.nan, torch.inf, 3.4e38, 1]]]).bfloat16()
    z, _ = grn_mlp_cpu.z_and_df(dz, dz, 2 * one, one[0, 0])
    assert str(z.flatten().tolist()) == "[nan, inf, inf, 3.0]"
    dh, _ = grn_mlp_cpu.dh_and_db(h, h, dz, 2 * one, one)  # Phi(0) = 1/2
    assert str(dh.flatten()[:2].tolist()) == "[nan, inf]"
    h[..., 3] = torch.nan
    assert grn_mlp_cpu.dh_and_db(h, h, torch.ones_like(h), one, one)[0][0, 0, 3].isnan()


@pytest.mark.parametrize("compiled", [True, False])
def test_fused_mlp_under_autocast_stays_close_to_float64(compiled: bool) -> None:
    mlp = mlp_of(16)
    x, seen = random(3, 50, 16), random(3, 50, 16, seed=3).detach()
    inputs = [x, *mlp.parameters()]
    exact = torch.autograd.grad(plain(x, mlp, norm_over_rows), inputs, seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fused(x.float(), mlp.float(), compiled=compiled)
    inputs = [x, *mlp.parameters()]
    for ours, theirs in zip(torch.autograd.grad(y, inputs, seen.bfloat16()), exact, strict=True):
        error = (ours.double() - theirs).norm() / theirs.norm()
        assert error < 4 * 2**-8  # some four roundings in sequence, to 8 bits each


def sites(b: int, side: int, d: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, visible indices, and the weights of a sum over outputs."""
    visible = draw_visible(b, grid[0] * grid[1], 0.6, generator=generator(0))
    shape = (b, int(visible[0].sum()), side, side, d)
    return random(*shape), visible, random(*shape, seed=5).detach()


@pytest.mark.parametrize("side", [8, 4, 2, 1])
@pytest.mark.parametrize("d", [5, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("threads", [1, 2])
def test_tap_loops_equal_convolution_in_values_and_every_gradient(
    side: int, d: int, threads: int
) -> None:
    grid = (3, 4)
    x, visible, seen = sites(3, side, d, grid)
    weight, bias = random(d, 1, 7, 7, seed=3), random(d, seed=4)
    sparse = Gathered(visible, grid)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = TapLoops.apply(x, weight, bias, sparse.visible, grid)
        found = torch.autograd.grad(ours, (x, weight, bias), seen)
    finally:
        torch.set_num_threads(before)
    compiled = loops(x.dtype, side, d, 7, grid[1])
    assert [len(each.signatures) for each in compiled] == [1, 1]  # type: ignore[attr-defined]
    theirs = ScatterConvolve.apply(x, weight, bias, *sparse.runs_of(side), grid)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    for a, b in zip(found, torch.autograd.grad(theirs, (x, weight, bias), seen), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("function", [TapLoops, ScatterConvolve])
def test_gradients_of_the_convolution_are_those_of_its_values(function: type) -> None:
    x, visible, _ = sites(2, 2, 2, (2, 3))
    sparse = Gathered(visible, (2, 3))
    where = (sparse.visible,) if function is TapLoops else sparse.runs_of(2)
    inputs = (x, random(2, 1, 7, 7, seed=3), random(2, seed=4), *where, (2, 3))
    assert gradcheck(function.apply, inputs)  # type: ignore[attr-defined]


def test_convolution_matches_its_sum_over_taps() -> None:
    grid, d = (2, 2), 3
    x, visible, _ = sites(1, 2, d, grid)
    conv = nn.Conv2d(d, d, 7, padding=3, groups=d).double()
    out = Gathered(visible, grid).depthwise(x, conv)
    assert conv.bias is not None
    at = {}  # (row, column) on the grid of sites -> (patch, y, x)
    for p, patch in enumerate(indices(visible)[0].tolist()):
        for y in range(2):
            for column in range(2):
                at[patch // 2 * 2 + y, patch % 2 * 2 + column] = (p, y, column)
    for (row, column), place in at.items():
        expected = conv.bias.clone()
        for i in range(7):
            for j in range(7):
                if (near := at.get((row + i - 3, column + j - 3))) is not None:
                    expected += conv.weight[:, 0, i, j] * x[0][near]
        torch.testing.assert_close(out[0][place], expected, rtol=1e-12, atol=1e-12)


def test_what_is_not_finite_stays_so() -> None:
    x, visible, _ = sites(1, 2, 4, (2, 2))
    conv = nn.Conv2d(4, 4, 7, padding=3, groups=4)
    broken = x.detach().float()
    broken[0, 0, 0, 0, 2] = torch.nan
    assert Gathered(visible, (2, 2)).depthwise(broken, conv)[0, 0, ..., 2].isnan().all()


COMPILED = """
import sys
from functools import partial
import torch
from fcmae import FCMAE, draw_visible
from fcmae.sparse.gathered import Gathered

g = torch.Generator().manual_seed(0)
model = FCMAE(image_size=16, stem_stride=1, ratio=0.5, decoder_dim=16, generator=g).double()
sparse = partial(Gathered, compiled=sys.argv[1] == "with-numba")
model.encoder.sparse = model.decoder.sparse = sparse
images = torch.randn(2, 3, 16, 16, generator=g).double()
visible = draw_visible(2, 4, 0.5, generator=g)
loss, prediction = model(images, visible)
loss.backward()
expected = {name: p.grad for name, p in model.named_parameters()}
model.zero_grad()
compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
loss2, prediction2 = compiled(images, visible)
loss2.backward()
torch.testing.assert_close((loss2, prediction2), (loss, prediction), rtol=1e-10, atol=1e-10)
for name, p in model.named_parameters():
    torch.testing.assert_close(p.grad, expected[name], rtol=1e-9, atol=1e-12)
with torch.autocast("cpu", dtype=torch.bfloat16):
    loss3, _ = compiled.float()(images.float(), visible)
loss3.backward()
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", ["with-numba", "without-numba"])
def test_a_step_compiles_as_one_graph(path: str) -> None:
    # in a process of its own: the compiler cannot trace the checks of shapes that tests insert
    result = run("-c", COMPILED, path)
    assert result.stdout == "equal\n", result.stderr


def test_the_path_without_numba_gives_the_same_step() -> None:
    model = FCMAE(image_size=(32, 24), stem_stride=1, decoder_dim=16).double()
    images = torch.randn(2, 3, 32, 24, generator=generator(0)).double()
    visible = draw_visible(2, 12, 0.6, generator=generator(1))
    with_numba = model(images, visible)[0]
    for part in (convnext_of(model), plain_of(model.decoder)):
        part.sparse = partial(Gathered, compiled=False)
    assert F.l1_loss(model(images, visible)[0], with_numba) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("taken", [False, True])
def test_compiled_loops_need_no_usual_place_on_disk(taken: bool) -> None:
    code = "import fcmae.sparse.grn_mlp_cpu as m; print(m.loops(8)[0].stats.cache_path)"
    before = "mount --bind fcmae fcmae && mount -o remount,ro,bind fcmae"
    before += " && mount -t tmpfs tmpfs /mnt"
    if taken:  # by somebody who lets anybody write there
        before += " && mkdir /mnt/fcmae-0 && chmod 777 /mnt/fcmae-0"
    done = run_after(before, code, HOME="/proc", NUMBA_CACHE_DIR="", TMPDIR="/mnt")
    assert done.returncode == 0, done.stderr
    (line,) = lines_of(done.stderr)
    assert line.startswith("neither the folder of the code nor the user's own can be written")
    assert ("kept nowhere" if taken else "kept in /mnt/fcmae-0;") in line
    assert done.stdout.startswith("/mnt/fcmae-0/numba/") != taken


@pytest.mark.slow
def test_each_file_of_compiled_loops_lists_one_code(tmp_path: Path) -> None:
    # Numba writes the list and the codes one by one: two processes that add to a list at once
    # may be handed loops for another width, which write where they must not
    code = """if True:
        import torch
        from numba.core.config import reload_config
        from fcmae.sparse import depthwise_cpu
        from fcmae.sparse.grn_mlp_cpu import dh_and_db, z_and_df
        reload_config()  # Numba was imported before this program got its environment
        visible = torch.tensor([[0, 3]])
        for d, dtype in (4, torch.float32), (4, torch.float64), (8, torch.float32):
            x = torch.randn(1, 2, 1, 1, d, dtype=dtype)
            depthwise_cpu.depthwise(x, x.new_ones(d, 1, 7, 7), x.new_ones(d), visible, 2, 2)
            depthwise_cpu.weight_gradient(x, x, visible, 2, 2, 7)
        for e in 8, 16:
            a = torch.randn(1, 2, e).bfloat16()
            b = torch.randn(1, 1, e)
            z_and_df(a, a, b, b[0, 0])
            dh_and_db(a, a, a.clone(), b, b)
    """
    done = run("-c", code, env={"NUMBA_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.rglob("*.nbi")]) == len([*tmp_path.rglob("*.nbc")]) == 3 * 2 + 2 * 2
