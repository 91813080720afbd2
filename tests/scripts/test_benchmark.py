"""The benchmark compares like with like, and prints what it found."""

import json
import subprocess
import time
from itertools import groupby
from pathlib import Path

import pytest
import torch

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture
from fcmae.decoders.transformer import TransformerDecoder
from scripts.bench.first_step import fill
from scripts.bench.gpu import keys, measure, size_of
from scripts.bench.lab import OURS, SIZES, Lab, within
from scripts.bench.loading import LOADING, Photographs
from scripts.bench.profiling import kind_of
from scripts.bench.rivals import mae_of, products
from scripts.bench.steps import TIMES, dense, model_of
from tests.support.models import plain_of
from tests.support.programs import run

NEEDS_A_GPU = ("gpu_depthwise_warpconvnet", "gpu_graph")


def benchmark(*flags: str) -> subprocess.CompletedProcess[str]:
    return run("scripts/benchmark.py", *flags)


@pytest.mark.slow
def test_masked_dense_computes_what_gathered_computes() -> None:
    model = model_of("convnextv2_atto", image_size=64)
    rival = dense(model_of("convnextv2_atto", image_size=64))
    images = torch.randn(2, 3, 64, 64)
    visible = draw_visible(2, 4, model.ratio)
    gradients = []
    for each in (model, rival):
        loss, _ = each(images, visible)
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in each.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_products_are_those_of_the_published_model() -> None:
    name = "convnextv2_atto"
    everything = FCMAE(name=name, ratio=0.1)
    macs = sum(r * k * n for r, k, n in products(name, everything, 1))
    decoder = plain_of(everything.decoder)
    parts = [
        (everything.v, decoder.project),
        (everything.n - everything.v, decoder.predict),
    ]
    macs -= sum(rows * layer.weight.numel() for rows, layer in parts)
    macs -= everything.n * 2 * 4 * decoder.project.out_features**2
    sites = [(56, 40), (28, 80), (14, 160), (7, 320)]
    depthwise = sum(
        depth * 49 * d * side**2 for (side, d), depth in zip(sites, (2, 2, 6, 2), strict=True)
    )
    dense_macs = macs * everything.n / everything.v + depthwise
    assert dense_macs == pytest.approx(0.55e9, rel=0.02)  # ConvNeXt V2 table 9: 0.55 G
    assert Architecture(name=name).dim == 320


def test_the_vit_is_of_the_size_of_vit_s() -> None:
    mae = mae_of()
    assert (mae.n, mae.v) == (196, 49)
    # ViT-S of timm without its positions
    parameters = sum(p.numel() for p in mae.encoder.parameters())
    assert parameters == 21_665_664 - 197 * 384
    assert isinstance(mae.decoder, TransformerDecoder)
    assert len(mae.decoder.blocks) == 8


@pytest.mark.slow
def test_one_key_ends_in_its_json() -> None:
    key = "masked_dense_over_gathered_encoder_atto_b32"
    result = benchmark("step", "--only", key, "--runs", "1", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.keys() == {key}
    assert found[key] > 0


def test_an_unknown_key_is_named_with_those_there_are() -> None:
    result = benchmark("step", "--only", "speed")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: --only speed is none of {next(iter(TIMES))}")


@pytest.mark.slow
def test_loading_prints_ratios_of_images_a_second() -> None:
    done = benchmark("data", "--runs", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == set(LOADING)
    assert all(ratio > 0 for ratio in found.values())


def test_both_sides_of_a_comparison_of_loaders_read_the_same_images() -> None:
    photographs = Photographs(12)
    assert photographs.size == pytest.approx(40e3, rel=0.3)
    assert [shard.samples for shard in photographs.shards] == [12]
    names = [path.name for path in photographs.folder.glob("photos/class/*.jpg")]
    assert sorted(names) == sorted(f"{i}.jpg" for i in range(12))


@pytest.mark.slow
def test_all_keys_of_a_gpu_run_dry_and_are_in_the_json() -> None:
    done = benchmark("gpu", "--dry", "--runs", "1", "--profile", "--limit", "500", "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    found = json.loads(lines[-1])
    for key in keys(Path("nowhere")):
        if key.startswith(NEEDS_A_GPU):
            assert found[key] is None
            assert any(line.startswith(f"  {key} failed: ValueError: ") for line in lines)
        else:
            assert found[key] > (-1 if "memory" in key else 0), key  # a process's peak never falls
            assert f"{key} {found[key]:.3f}" in lines
    steps = {f"{OURS} {size} {mode}" for size in SIZES for mode in ("eager", "compiled")}
    assert steps <= found["steps"].keys()
    assert sum("the device is busy for" in line for line in lines) >= 2 * len(SIZES)


def lab(limit: float = 60.0) -> Lab:
    return Lab(dry=True, runs=1, scope="block", limit=limit, patience=60.0)


def test_without_time_left_every_key_is_named_and_none_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = measure(lab(limit=0.0), only="tiny,warm", cache=tmp_path, profile=True)
    told = capsys.readouterr().out
    wanted = [key for key in keys(tmp_path) if "tiny" in key or "warm" in key]
    assert len(wanted) >= 5
    assert {key for key in found if key.startswith("gpu_")} == set(wanted)
    for key in wanted:
        assert found[key] is None
        assert f"{key}: no time left" in told


def test_a_key_that_fails_is_named_and_the_next_one_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = measure(lab(), only="_over_ours_1", cache=tmp_path, profile=False)
    assert found["gpu_depthwise_warpconvnet_over_ours_1"] is None
    assert found["gpu_depthwise_cudnn_over_ours_1"] > 0
    assert "gpu_depthwise_warpconvnet_over_ours_1 failed: ValueError: " in capsys.readouterr().out


@pytest.mark.slow
def test_processes_fill_a_cache_and_what_they_timed_beside_others_is_forgotten(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    choice = tmp_path / "ab" / "kernel.best_config"
    choice.parent.mkdir()
    choice.touch()
    fill(lab(), tmp_path, 2, [(OURS, "atto"), ("theirs", "atto")])
    assert not choice.exists()
    first, second = sorted(capsys.readouterr().out.splitlines())
    assert first.startswith(f"  compiling {OURS} atto: ")
    assert first.endswith(" s, beside others")
    assert second.startswith("  compiling theirs atto failed: RuntimeError: ")


def test_work_that_takes_too_long_is_stopped() -> None:
    with (
        pytest.raises(TimeoutError, match=r"^sleeping takes more than 0 s$"),
        within(0.05, "sleeping"),
    ):
        time.sleep(10)
    time.sleep(0.1)  # the alarm is off again


def test_keys_are_grouped_by_size_so_that_no_model_is_made_twice() -> None:
    sizes = [size_of(key) for key in keys(Path("nowhere")) if "graph" not in key]
    runs = [size for size, _ in groupby(size for size in sizes if size)]
    assert sorted(runs) == sorted(SIZES)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NNT", "products"),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_stage5", "products"),
        ("void wgrad2d_grouped_direct_kernel<__nv_bfloat16, float>", "depthwise"),
        ("void conv2d_grouped_direct_kernel<__nv_bfloat16>", "depthwise"),
        ("triton_poi_fused__to_copy_convolution_index_copy_4", "copies and indexing"),
        ("triton_poi_fused__to_copy_add_gelu_mul_7", "element-wise"),
        ("triton_per_fused__to_copy_native_layer_norm_3", "norms"),
        ("triton_red_fused_gelu_pow_sum_2", "sums"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>", "norms"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "sums"),
        (
            "void at::native::unrolled_elementwise_kernel<direct_copy_kernel_cuda>",
            "copies and indexing",
        ),
        ("void at::native::vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>", "element-wise"),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdam>",
            "optimiser",
        ),
        ("Memcpy DtoD (Device -> Device)", "copies and indexing"),
    ],
)
def test_kernels_are_sorted_by_what_they_do(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind
