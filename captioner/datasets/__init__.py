"""Captioned photos on disk: one module a format, each of which yields `Example`s."""

from captioner.datasets.dataset import Dataset, load_dataset
from captioner.datasets.example import Example

__all__ = ["Dataset", "Example", "load_dataset"]
