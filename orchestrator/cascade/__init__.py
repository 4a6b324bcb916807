"""Runs the stage graph, on Ray or in plain processes."""
