"""Images in, tensors out: tar shards, data sets to try, transforms and the input pipeline."""
