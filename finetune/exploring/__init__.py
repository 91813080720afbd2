"""A page on a checkpoint: what it sees, predicts and finds alike in pictures."""
