"""Make-A-Video: from a caption to an image embedding, and from there to video."""
