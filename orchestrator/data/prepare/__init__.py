"""From raw videos and captions to indexed shards: one small file per step."""
