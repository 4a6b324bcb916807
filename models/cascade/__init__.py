"""Networks of pixels one after another: each enlarges in time or space what the last one made."""
