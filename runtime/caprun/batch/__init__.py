"""Captioning many photos: listing, reading ahead, resumable result files, progress."""
