"""Recipes: files that list the training stages and the export of a model; this folder has captioner's own."""
