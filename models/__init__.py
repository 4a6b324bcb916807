"""Networks and mathematics: torch only, no cluster, no storage."""
