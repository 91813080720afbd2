"""Weights: every name of a tensor, what files hold, and the models that others load."""

from typing import Literal

Target = Literal["timm", "official", "hub", "hf", "onnx"]  # what `fcmae.convert` can write
