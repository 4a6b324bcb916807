"""Object storage: get, put, list, conditional commit, retry."""
