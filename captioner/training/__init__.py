"""Training: cached features, batches, losses, the loop and its checkpoints."""
