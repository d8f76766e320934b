"""The cut and its feature cache, the fit loop, checkpoints, records, adapter files."""
