"""Formats of images: which one bytes are in, and how each is opened."""
