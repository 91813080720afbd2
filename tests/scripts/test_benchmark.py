"""The benchmark compares like with like, and prints what it found."""

import json
import subprocess

import pytest
import torch

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture
from scripts.bench.loading import LOADING, Photographs
from scripts.bench.rivals import MaskedAutoencoder, products
from scripts.bench.steps import TIMES, dense, model_of
from tests.support.programs import run


def benchmark(*flags: str) -> subprocess.CompletedProcess[str]:
    return run("scripts/benchmark.py", *flags)


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
    decoder = everything.decoder
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
    encoder = MaskedAutoencoder().encoder
    blocks = sum(p.numel() for p in encoder.parameters())
    assert blocks == pytest.approx(12 * (12 * 384**2), rel=0.02)  # 21.2 M of ViT-S's 22 M


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
