"""A model and its images are on the accelerator, and its outputs come back from there."""

import pytest
import torch

from finetune.models import classifier, segmenter
from finetune.models.accelerated import accelerated
from finetune.models.config import BackboneConfig
from tests.support.models import TINY

CONFIG = BackboneConfig(random=TINY, head_init_scale=9.0)
MAKERS = {
    "classifier": lambda: classifier.create(CONFIG, 3, 0),
    "segmenter": lambda: segmenter.create(CONFIG, 3, 32, 0),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_model_runs_where_torch_sees_an_accelerator(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On torch's meta device, which has shapes and no values: only the outputs cannot be copied."""
    model, metadata = MAKERS[kind]()
    meta = torch.device("meta")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: meta)
    forward = accelerated(model)
    assert {tensor.device for tensor in model.state_dict().values()} == {meta}
    assert not model.training
    with torch.no_grad(), pytest.raises(NotImplementedError, match="Cannot copy out of meta"):
        forward(torch.zeros(2, metadata.in_chans, *metadata.image_size))


@pytest.mark.parametrize("kind", MAKERS)
def test_outputs_are_those_of_the_model(kind: str) -> None:
    model, metadata = MAKERS[kind]()
    images = torch.randn(2, metadata.in_chans, *metadata.image_size)
    with torch.no_grad():
        expected = model.eval()(images)
        found = accelerated(model)(images)
    assert found.device.type == "cpu"
    atol = 0.01 * float(expected.std())  # convolutions of a GPU may use TF32
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
