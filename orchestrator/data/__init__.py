"""Shards and their index, deterministic order, the training stream, the digits source."""
