"""Photos: from a file of any supported format to an upright RGB image and a uint8 array.

An `ImageError` is raised without the photo's name and without a full stop; `reading` adds both.
"""
