"""Forward and reverse process: objectives, parameterisations, samplers, guidance."""
