"""Weights in files: the names of tensors, our own files, and models for other programs."""
