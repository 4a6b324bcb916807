"""Causal video autoencoder, diffusion transformer and their sampling chain."""
