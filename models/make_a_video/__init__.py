"""Make-A-Video: text to video by way of image embeddings, in pixels."""
