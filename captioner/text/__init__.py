"""Tokenizers, which turn captions into ids of a vocabulary of printable pieces."""
