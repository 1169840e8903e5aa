"""Evaluation: scores the captions of a split against its reference captions."""
