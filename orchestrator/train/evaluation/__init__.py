"""What a finished run is worth, on held-out prompts and clips."""
