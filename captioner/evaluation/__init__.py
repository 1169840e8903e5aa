"""Evaluation: captions of a split against its references."""
