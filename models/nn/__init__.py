"""Shared layers, and the space-time U-Net of Make-A-Video and Imagen Video."""
