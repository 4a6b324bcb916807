"""The schema of a recipe: load, override, validate, digest. No torch, no Ray."""
