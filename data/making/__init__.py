"""From what people have, folders and tables of images, to shards."""
