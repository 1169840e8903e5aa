"""Recipes: all the trainings that make a model, and its export, in a file. Those beside this come with captioner."""
