"""The default source: real handwritten digits, coloured and moving, and their judge."""
