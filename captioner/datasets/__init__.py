"""Captioned photos on disk: one module a format, each of which yields `Example`s."""

from captioner.datasets.dataset import Dataset, Example, load_dataset

__all__ = ["Dataset", "Example", "load_dataset"]
