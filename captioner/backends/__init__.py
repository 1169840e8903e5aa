"""A trained model behind the runtime's search: PyTorch models in memory, and TorchScript bundles."""
