"""WebDataset shards: sources of their bytes, where samples lie in them, reading, writing."""
