"""What a model is, batches, the one training loop, files of weights."""
