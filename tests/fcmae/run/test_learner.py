"""A learner takes the steps that its config describes, and goes on from a checkpoint."""

from pathlib import Path

import pytest
import torch

from fcmae.run import checkpoint
from fcmae.run.ema import Ema
from fcmae.run.learner import Learner, Precision, gradient_norm
from tests.support.learners import assert_equal, learner_of, train


def save(learner: Learner, run: Path) -> Path:
    """Write a checkpoint of the learner."""
    state, files = learner.snapshot(keep=True)
    return checkpoint.save(run, state, files, "")


def test_accumulated_micro_batches_equal_one_large_batch() -> None:
    one, four = (learner_of(accumulate=count) for count in (1, 4))
    for learner in (one, four):
        train(learner, range(1), measure=True)
    torch.testing.assert_close(four.loss, one.loss)
    torch.testing.assert_close(four.norm, one.norm)
    # the moments, since AdamW's first step only takes the signs of the gradient
    moments = (checkpoint.moments(learner.model, learner.optimizer) for learner in (four, one))
    torch.testing.assert_close(*moments)


def test_clipping_scales_the_gradient_down_to_the_limit() -> None:
    free, clipped = (learner_of(clip_grad=limit) for limit in (None, 0.01))
    train(free, range(1), measure=True)
    train(clipped, range(1))
    assert clipped.norm > 0.01  # the norm before clipping
    torch.testing.assert_close(clipped.norm, free.norm)
    before, after = (checkpoint.moments(x.model, x.optimizer) for x in (free, clipped))
    for name in before:
        if name.endswith(":exp_avg"):
            torch.testing.assert_close(after[name], before[name] * (0.01 / free.norm))


def test_a_gradient_within_the_limit_is_left_alone() -> None:
    free, clipped = (learner_of(clip_grad=limit) for limit in (None, 1e6))
    for learner in (free, clipped):
        train(learner, range(2))
    assert_equal(clipped, free)


def test_gradient_norm_is_that_of_all_parameters_together() -> None:
    model = torch.nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[3.0, 0.0]])
    model.bias.grad = torch.tensor([4.0])
    assert gradient_norm(model, None).item() == 5
    assert gradient_norm(model, 1.0).item() == 5
    torch.testing.assert_close(model.bias.grad, torch.tensor([0.8]))


def test_the_average_follows_the_encoder_alone() -> None:
    learner = learner_of(ema=0.9)
    encoder = learner.model.get_submodule("encoder")
    expected = Ema(encoder, 0.9, "encoder.")  # which test_ema.py compares with its equation
    for step in range(3):
        train(learner, range(step, step + 1))
        expected.update(step)
    assert learner.averages is not None
    torch.testing.assert_close(learner.averages, expected.averages, rtol=0, atol=0)
    assert not torch.equal(learner.averages["encoder.0.weight"], encoder.get_parameter("0.weight"))


def test_learning_rate_is_scaled_for_each_group() -> None:
    learner = learner_of(warmup_epochs=0.0)
    learner.optimizer.param_groups[0]["scale"] = 0.5
    learner.begin(0)
    assert learner.lr == 0.1 * 4 / 256
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    assert rates == [0.5 * learner.lr, learner.lr]


def test_a_warm_up_beyond_the_run_shrinks_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    learner = learner_of(steps=None, epochs=20.0, warmup_epochs=40.0)
    assert learner.warmup == learner.total // 10
    assert capsys.readouterr().out == (
        "optim.warmup_epochs=40.0 is not shorter than the run of 20.0 epochs: the warm-up is a"
        f" tenth of it, {learner.warmup} steps\n"
    )
    learner_of(steps=None, epochs=20.0, warmup_epochs=None)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_equals_an_uninterrupted_one(precision: Precision, tmp_path: Path) -> None:
    uninterrupted = learner_of(precision, ema=0.9, accumulate=2, clip_grad=1.0)
    train(uninterrupted, range(4))
    stopped = learner_of(precision, ema=0.9, accumulate=2, clip_grad=1.0)
    train(stopped, range(2))
    resumed = learner_of(precision, ema=0.9, accumulate=2, clip_grad=1.0)
    resumed.load(save(stopped, tmp_path))
    assert resumed.state.step == 2
    assert resumed.state.samples_seen == 8
    train(resumed, range(2, 4))
    assert resumed.finished
    assert_equal(resumed, uninterrupted)


def test_a_checkpoint_keeps_the_loss_scale_and_its_history(tmp_path: Path) -> None:
    learner = learner_of("fp16")
    learner.scaler.load_state_dict(learner.scaler.state_dict() | {"scale": 1024.0})
    train(learner, range(2))
    resumed = learner_of("fp16")
    resumed.load(save(learner, tmp_path))
    assert resumed.scaler.state_dict() == learner.scaler.state_dict()
    assert resumed.scaler.get_scale() == 1024
    assert resumed.scaler.state_dict()["_growth_tracker"] == 2


def test_an_overflow_in_fp16_takes_no_step_and_halves_the_scale() -> None:
    learner = learner_of("fp16")
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.begin(0)
    sums = torch.stack([p.sum() for p in learner.model.parameters()])
    learner.backward(sums.sum() * 1e38)
    learner.step(measure=True)
    assert not learner.norm.isfinite()
    assert learner.scaler.get_scale() == 65536 / 2
    torch.testing.assert_close(learner.model.state_dict(), before, rtol=0, atol=0)
