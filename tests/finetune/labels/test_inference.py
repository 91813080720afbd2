"""What a model says of samples: finite numbers, or an error that names the sample."""

import io
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from torch import Tensor, nn

from data.config import PixelConfig
from data.dataset import ShardImages
from data.shards.samples import ShardSamples
from data.shards.writing import write_shards
from finetune.labels.config import InferenceConfig
from finetune.labels.inference import Inference
from tests.support.models import TINY


def npy(value: float) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full((16, 16, 3), value, np.float32))
    return file.getvalue()


def test_outputs_that_are_not_finite_are_refused_with_their_sample(tmp_path: Path) -> None:
    values = (0.1, 3e38, 0.2, 3e38)
    samples = ({"__key__": f"s{i}", "npy": npy(v), "cls": 0} for i, v in enumerate(values))
    shards = write_shards(samples, tmp_path, "train", 9)
    images = ShardImages(
        ShardSamples(shards), size=(16, 16), in_chans=3, pixels=PixelConfig(pixels="float32")
    )
    config = InferenceConfig(pixels="float32", workers=0)
    inference = Inference(images, TINY.metadata(step=0), config, Accelerator(cpu=True))

    def squares(x: Tensor) -> Tensor:
        return x.square().mean((2, 3))

    with pytest.raises(ValueError, match=r"for 2 of 4 samples are not finite, first for .* 's1'"):
        inference.outputs(nn.Identity(), squares)
