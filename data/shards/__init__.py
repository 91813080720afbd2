"""WebDataset shards: where their bytes come from, where samples lie in them, reading, writing."""
