"""Runs a recipe: the stage graph, its workers, their data, storage and tracking."""
