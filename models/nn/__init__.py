"""Shared layers: attention, rotary position, norms, patches, causal convolution."""
