"""MLflow, and the local spool in front of it."""
