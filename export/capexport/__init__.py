"""The exporter: writes a checkpoint as a bundle and proves that its graphs compute what PyTorch computes."""
