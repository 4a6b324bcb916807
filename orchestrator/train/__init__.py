"""One rank's process: worker, loop, engine, checkpoint, evaluation. No Ray."""
