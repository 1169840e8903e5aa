"""Photos: from a file of any supported format to an upright RGB image and a uint8 array.

While a photo is opened, an `ImageError` is raised without the photo's name and a full stop; `reading` adds both.
"""
