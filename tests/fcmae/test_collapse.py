"""The feature distance of the paper's figure 3, against its definition."""

import pytest
import torch
from torch.nn import functional as F

from fcmae import FCMAE, collapse, draw_visible
from fcmae.layers import GrnMlp, Mlp
from fcmae.model_config import Implementation


def model_of(name: str = "convnextv2_atto", sparse: Implementation = "gathered") -> FCMAE:
    generator = torch.Generator().manual_seed(0)
    return FCMAE(
        name=name, image_size=32, stem_stride=1, decoder_dim=32, sparse=sparse, generator=generator
    )


def test_the_distance_is_the_mean_over_all_pairs_of_channels() -> None:
    a = torch.randn(2, 7, 5)
    expected = []
    for image in a:
        pairs = [
            (1 - F.cosine_similarity(image[:, i], image[:, j], dim=0)) / 2
            for i in range(5)
            for j in range(5)
        ]
        expected.append(torch.stack(pairs).mean())
    torch.testing.assert_close(collapse.cosine_distance(a), torch.stack(expected))


def test_channels_that_say_the_same_have_no_distance() -> None:
    a = torch.rand(1, 9, 1).expand(1, 9, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(collapse.cosine_distance(a), torch.zeros(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_atto"])
def test_it_is_measured_on_what_the_second_layer_sees_in_each_block(name: str) -> None:
    model = model_of(name)
    with torch.no_grad():
        for parameter in model.parameters():  # GRN that starts at zero would hide its place
            parameter.add_(0.1 * torch.rand(parameter.shape))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    visible = draw_visible(2, model.n, model.ratio, generator=generator)
    with torch.no_grad(), collapse.measured(model.encoder) as found:
        model.encoder(images, visible)
    assert len(found) == 12

    # the same from the reference, whose second layers are called as modules
    reference = model_of(name, "reference")
    reference.load_state_dict(model.state_dict())
    expected = []
    side = {}

    def see(layer: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        a = args[0]  # [b, h, w, e]
        s = a.shape[1] // model.grid[0]
        grid = visible.view(2, *model.grid)
        seen = grid.repeat_interleave(s, 1).repeat_interleave(s, 2)
        rows = a[seen].view(2, -1, a.shape[-1])
        expected.append(collapse.cosine_distance(rows).mean())

    for module in reference.encoder.modules():
        if isinstance(module, Mlp | GrnMlp):
            side[module] = module.fc2.register_forward_pre_hook(see)
    with torch.no_grad():
        reference.encoder(images, visible)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_training_goes_on_as_if_nothing_had_been_measured() -> None:
    model = model_of()
    images, visible = torch.randn(2, 3, 32, 32), draw_visible(2, model.n, model.ratio)
    before = model(images, visible)[0]
    with collapse.measured(model.encoder):
        model(images, visible)
    assert torch.equal(model(images, visible)[0], before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_other_implementations_are_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"needs --model\.sparse gathered"),
        collapse.measured(model_of(sparse="reference").encoder),
    ):
        pass
