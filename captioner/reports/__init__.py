"""What a training leaves in its folder for people to read: numbers, curves, pictures, and a page of all of it."""
