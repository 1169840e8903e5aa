"""Recipes: files that list the trainings and the export of a model. Those in this folder come with captioner."""
