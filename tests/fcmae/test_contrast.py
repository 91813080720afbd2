"""The contrastive term: its equations against plain loops, and what it leaves alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fcmae import FCMAE
from fcmae.contrast import Contrast, alignment, nearest, nnclr, nt_xent, pooled, uniformity
from fcmae.contrast_config import ContrastConfig
from fcmae.masking import draw_visible_of, patchify, unpatchify
from tests.support.generators import generator

TERM = ContrastConfig(weight=0.5, dim=8, hidden=16)


def small(**kwargs: object) -> FCMAE:
    options = {"image_size": 32, "stem_stride": 1, "decoder_dim": 32, "generator": generator(0)}
    return FCMAE(**(options | kwargs))  # type: ignore[arg-type]


def vectors(n: int, views: int = 2) -> Tensor:
    """Views of n samples as vectors of length 1."""
    return F.normalize(torch.randn(n, views, 8, generator=generator(3)).double(), dim=-1)


def views_of(model: FCMAE, samples: int = 3) -> tuple[Tensor, Tensor]:
    """Random pictures of two views of each sample, and what is visible of them."""
    side = model.image_size[0]
    images = torch.randn(2 * samples, 3, side, side, generator=generator(1))
    sample = torch.arange(samples)
    return images, draw_visible_of(0, torch.zeros_like(sample), sample, model.n, model.ratio, 2)


def entropy(anchor: Tensor, partner: Tensor, others: list[Tensor], temperature: float) -> float:
    """-log of the share that the partner has among all with which an anchor is compared."""
    likeness = [math.exp(float(anchor @ z) / temperature) for z in (partner, *others)]
    return -math.log(likeness[0] / sum(likeness))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_nt_xent_is_its_equation(temperature: float) -> None:
    z = vectors(4)
    losses = []
    for i in range(4):
        others = [z[k, view] for k in range(4) if k != i for view in range(2)]
        losses += [entropy(z[i, view], z[i, 1 - view], others, temperature) for view in range(2)]
    assert nt_xent(z, temperature).item() == pytest.approx(sum(losses) / 8, rel=1e-12)


def test_the_loss_of_neighbours_is_its_equation() -> None:
    z, queue = vectors(4), vectors(3, 4).flatten(0, 1)
    losses = []
    for i in range(4):
        for view in range(2):
            neighbour = max(queue, key=lambda row, own=z[i, view]: float(row @ own))
            others = [z[k, 1 - view] for k in range(4) if k != i]
            losses.append(entropy(neighbour, z[i, 1 - view], others, 0.2))
    found = nnclr(z, nearest(z, queue), 0.2)
    assert found.item() == pytest.approx(sum(losses) / 8, rel=1e-12)


def test_alignment_and_uniformity_are_their_equations() -> None:
    z = vectors(5)
    squares = [sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in z.tolist()]
    assert alignment(z).item() == pytest.approx(sum(squares) / 5)
    logs = []
    for view in range(2):
        apart = [z[i, view] - z[k, view] for i in range(5) for k in range(i)]
        logs.append(math.log(sum(math.exp(-2 * float(d @ d)) for d in apart) / len(apart)))
    assert uniformity(z).item() == pytest.approx(sum(logs) / 2)


def test_the_queue_holds_the_first_views_of_the_newest_samples_in_their_order() -> None:
    term = Contrast(12, ContrastConfig(weight=1.0, dim=8, hidden=16, neighbours=5), generator(0))
    drawn = term.queue
    assert drawn is not None
    began = drawn.clone()
    torch.testing.assert_close(began.norm(dim=1), torch.ones(5))
    features = torch.randn(2, 6, 12, generator=generator(1))
    first = [term.embed(part)[:, 0].detach() for part in features]
    term(features[0])
    assert torch.equal(drawn, torch.cat([began[3:], first[0]]))
    term(features[1])
    assert torch.equal(drawn, torch.cat([first[0][1:], first[1]]))
    assert "queue" in term.state_dict()
    assert "queue" not in Contrast(12, TERM).state_dict()


def test_without_weight_nothing_changes() -> None:
    plain = small()
    off = small(contrast=ContrastConfig(temperature=9.0, dim=4, hidden=4, neighbours=7))
    on = small(contrast=TERM)
    assert off.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(off.state_dict()[name], tensor)
        assert torch.equal(on.state_dict()[name], tensor)  # the projector is drawn after the rest
    images, visible = views_of(plain)
    assert all(map(torch.equal, off(images, visible), plain(images, visible)))
    # nor where pictures are reconstructed, which are no pairs
    assert all(map(torch.equal, on.eval()(images[:3], visible[:3]), plain(images[:3], visible[:3])))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoder": "unet", "decoder_dim": 64},
        {"name": "mae_vit_tiny", "stem_stride": 2, "decoder_dim": 64, "decoder_depth": 1},
        {"sparse": "reference"},
        pytest.param(
            {"name": "convmae_small", "stem_stride": 2, "decoder_dim": 64, "decoder_depth": 1},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"name": "timm:mobilenetv3_small_050", "image_size": 64}, marks=pytest.mark.slow
        ),
    ],
)
def test_the_loss_of_every_encoder_is_the_sum_of_both_terms(options: dict[str, object]) -> None:
    model = small(contrast=TERM, **options)
    images, visible = views_of(model)
    loss, prediction, terms = model(images, visible)
    assert loss.item() == pytest.approx(float(terms["reconstruction"] + 0.5 * terms["contrast"]))
    assert len(prediction) == len(images)
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert all(g is not None and g.any() for g in gradients[-2:])  # of the projector


def test_hidden_pixels_reach_no_embedding() -> None:
    model = small(contrast=TERM)
    images, visible = views_of(model)
    patches = patchify(images, model.patch_size)
    noise = torch.randn(patches.shape, generator=generator(8))
    other = unpatchify(patches.where(visible[:, :, None, None, None], noise), model.grid)
    assert not torch.equal(other, images)
    assert model.contrast is not None
    ours, theirs = (model.contrast.embed(pooled(model.encode(x, visible))) for x in (images, other))
    assert torch.equal(ours, theirs)


def test_what_all_features_have_in_common_is_nothing_that_views_are_compared_by() -> None:
    term = Contrast(12, TERM, generator(0)).double()
    features = torch.randn(6, 12, generator=generator(1)).double()
    far = features + 100 * torch.randn(12, generator=generator(2)).double()
    torch.testing.assert_close(term.embed(far), term.embed(features))
    assert uniformity(term.embed(far)) < -1  # 0 where all samples are the same


def test_similarities_are_in_full_precision_under_autocast() -> None:
    term = Contrast(12, TERM, generator(0))
    features = torch.randn(6, 12, generator=generator(1))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = term(features)
        z = term.embed(features)
    assert z.dtype == torch.float32
    assert torch.equal(loss, nt_xent(z, TERM.temperature))


def test_views_are_masked_by_functions_of_the_sample_the_first_one_as_without_a_second() -> None:
    epoch, sample = torch.tensor([0, 0, 1]), torch.tensor([3, 4, 3])
    both = draw_visible_of(7, epoch, sample, 49, 0.6, 2)
    assert torch.equal(both[::2], draw_visible_of(7, epoch, sample, 49, 0.6))
    assert torch.equal(both[2:4], draw_visible_of(7, epoch[1:2], sample[1:2], 49, 0.6, 2))
    assert len({tuple(row) for row in both.tolist()}) == 6
    assert both.sum(1).eq(19).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Contrast(12, TERM)(torch.ones(3, 12)),
            "takes two views of a sample.* there are 3",
        ),
        (lambda: Contrast(12, TERM)(torch.ones(2, 12)), "a micro-batch has one: raise optim.batch"),
    ],
)
def test_what_cannot_be_compared_is_said(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
