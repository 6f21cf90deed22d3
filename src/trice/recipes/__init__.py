"""Recipes: the whole loop as one validated YAML file, and the pipeline that runs it."""
