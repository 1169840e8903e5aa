"""Graphs in other precisions than fp32: how they are made, and whether they are worth keeping."""
