"""What the batches will be like, before training."""
