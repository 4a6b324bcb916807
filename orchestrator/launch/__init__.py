"""Command line, terminal, local processes, job submission."""
