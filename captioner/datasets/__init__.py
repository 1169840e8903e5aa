"""Datasets of captioned photos on disk; each format has a module that yields `Example`s."""

from captioner.datasets.dataset import Dataset, load_dataset
from captioner.datasets.example import Example
from captioner.datasets.joining import DataSource, load_datasets

__all__ = ["DataSource", "Dataset", "Example", "load_dataset", "load_datasets"]
