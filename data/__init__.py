"""Images in, tensors out: tar shards, the embedded data set, transforms and the input pipeline."""
