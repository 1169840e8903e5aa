"""From checkpoints to bundles: two traced graphs, written, run, and compared with PyTorch before anybody sees them."""
