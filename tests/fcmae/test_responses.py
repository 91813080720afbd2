"""What excites channels and what GRN responds to, against plain loops."""

import pytest
import torch
from torch.nn import functional as F

from fcmae import FCMAE
from fcmae.layers import GrnMlp
from fcmae.model_config import Implementation
from fcmae.responses import Peaks, channels_of, merged, respond, strongest
from tests.support.models import convnext_of


def model_of(name: str = "convnextv2_atto", sparse: Implementation = "gathered") -> FCMAE:
    generator = torch.Generator().manual_seed(0)
    model = FCMAE(
        name=name,
        image_size=(16, 24),
        stem_stride=1,
        decoder_dim=32,
        sparse=sparse,
        generator=generator,
    )
    with torch.no_grad():
        for parameter in model.parameters():  # GRN that starts at zero would hide its place
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    return model


IMAGES = torch.randn(11, 3, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def seen() -> dict[str, list[torch.Tensor]]:
    """What the reference implementation computes: outputs of stages [b, h, w, d], a of GRN."""
    model = model_of(sparse="reference")
    found: dict[str, list[torch.Tensor]] = {"stages": [], "a": []}

    def see_stage(_stage: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        found["stages"].append(output)

    def see_fc1(_layer: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        found["a"].append(F.gelu(output))

    for stage in convnext_of(model).stages:
        stage.register_forward_hook(see_stage)
    for module in model.encoder.modules():
        if isinstance(module, GrnMlp):
            module.fc1.register_forward_hook(see_fc1)
    with torch.no_grad():
        features = model.encoder(IMAGES, torch.ones(11, model.n, dtype=torch.bool))
    return found | {"features": [features]}


def test_the_strongest_sites_are_those_that_a_loop_over_the_maps_finds(seen) -> None:
    model = model_of()
    responses = respond(model.encoder, IMAGES)
    for stage, output in zip(responses.stages, seen["stages"], strict=True):
        found = strongest(stage)
        assert found.images.shape == (8, 9)
        for k, channel in enumerate(found.channels.tolist()):
            sites = []
            for image, site_map in enumerate(output[..., channel].tolist()):
                sites.append(
                    max(
                        (value, image, row, column)
                        for row, line in enumerate(site_map)
                        for column, value in enumerate(line)
                    )
                )
            values, *places = zip(*sorted(sites, reverse=True)[:9], strict=True)
            torch.testing.assert_close(found.values[k], torch.tensor(values), rtol=1e-4, atol=1e-4)
            ours = (found.images[k], found.rows[k], found.columns[k])
            assert [place.tolist() for place in ours] == [list(place) for place in places]


def test_features_are_the_mean_over_the_patches(seen) -> None:
    responses = respond(model_of().encoder, IMAGES)
    torch.testing.assert_close(
        responses.features, seen["features"][0].mean(1), rtol=1e-4, atol=1e-5
    )


def test_grn_responds_by_its_equation(seen) -> None:
    responses = respond(model_of().encoder, IMAGES)
    assert len(responses.grn) == len(seen["a"]) == 12
    for response, a in zip(responses.grn, seen["a"], strict=True):
        expected = torch.zeros(a.shape[-1])
        for image in a:
            norm = torch.stack([channel.norm() for channel in image.flatten(0, 1).T])
            expected += norm / (norm.mean() + 1e-6)
        torch.testing.assert_close(response, expected, rtol=1e-4, atol=1e-4)


def test_v1_has_no_grn_to_respond() -> None:
    responses = respond(model_of("convnext_atto").encoder, IMAGES)
    assert responses.grn == ()
    assert len(responses.stages) == 4


@pytest.mark.parametrize("sparse", ["gathered", "reference"])
def test_parts_together_are_the_whole_whatever_the_implementation(sparse: Implementation) -> None:
    whole = respond(model_of().encoder, IMAGES)
    encoder = model_of(sparse=sparse).encoder
    usual = encoder.sparse
    parts = merged([respond(encoder, part) for part in IMAGES.split(4)])
    assert encoder.sparse is usual
    assert not any(module._forward_hooks for module in encoder.modules())
    torch.testing.assert_close(parts.features, whole.features, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(parts.grn, whole.grn, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(parts.stages, whole.stages, strict=True):
        assert torch.equal(ours.rows, theirs.rows)
        assert torch.equal(ours.columns, theirs.columns)


def test_channels_are_spread_evenly() -> None:
    assert channels_of(40).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    assert channels_of(3).tolist() == [0, 1, 2]


def test_fewer_images_than_places_are_all_shown() -> None:
    peaks = Peaks(
        channels=torch.tensor([0]),
        values=torch.tensor([[1.0], [3.0]]),
        rows=torch.tensor([[4], [5]]),
        columns=torch.tensor([[6], [7]]),
    )
    found = strongest(peaks)
    assert found.images.tolist() == [[1, 0]]
    assert found.values.tolist() == [[3, 1]]
    assert found.rows.tolist() == [[5, 4]]
    assert found.columns.tolist() == [[7, 6]]
