"""Writes graphs in precisions other than fp32, and decides whether to keep them."""
