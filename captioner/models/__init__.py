"""Encoder, attention and decoder, the captioning model that combines them, and its checkpoints."""
