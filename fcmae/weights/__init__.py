"""Weights in files: the names of tensors, our own files, and models for other programs."""

from typing import Literal

Target = Literal["timm", "official", "hub", "hf", "onnx"]  # what `fcmae.convert` can write
