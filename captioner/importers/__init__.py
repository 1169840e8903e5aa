"""Checkpoints of other captioners as ours: files read without running code, names and vocabularies converted."""
