"""The inputs of training: batches, cached features, photo files, and augmented views."""
