"""Checkpoints: name-keyed slices in safetensors, one small write makes them exist.

A step's folder holds the ranks' ``*.safetensors``, ``index.json`` and, last, ``COMMIT``.
"""
