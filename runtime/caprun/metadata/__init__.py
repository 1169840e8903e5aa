"""Captions in the metadata of photos: XMP sidecars."""
