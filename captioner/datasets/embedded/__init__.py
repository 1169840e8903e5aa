"""Datasets whose photos are in the cells of a table, on disk or on the Hugging Face hub; they become image folders."""
