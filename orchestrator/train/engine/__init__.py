"""Engines: how one network's optimizer step is computed and sharded.

The only place that imports deepspeed.
"""
