"""Training: inputs, losses, optimiser, validation, the training loop and its stages."""
