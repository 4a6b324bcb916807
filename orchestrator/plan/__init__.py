"""Recipe to stage graph and derived numbers. No torch."""
