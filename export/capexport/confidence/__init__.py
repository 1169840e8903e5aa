"""Confidence, the probability that a caption is good: fitted and measured at export."""
