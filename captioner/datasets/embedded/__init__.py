"""Datasets with photos in table cells, on disk or on the Hugging Face hub; they are converted to image folders."""
