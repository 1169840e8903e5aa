"""ONNX Runtime: sessions, devices, precisions, and the hardware they run on."""
