"""Imports checkpoints of other captioners: reads files without running their code, converts names and vocabularies."""
