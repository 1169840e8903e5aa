"""Photos: from a file of any supported format to an upright RGB image and a uint8 array."""
