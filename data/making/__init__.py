"""Making shards out of what people have, which is folders and tables of images."""
