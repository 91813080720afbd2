"""Frozen features: extracted once, whitened, held out, kept in files."""
