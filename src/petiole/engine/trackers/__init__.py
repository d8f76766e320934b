"""Loggers that show a run in a tracker of experiments; each needs its own library."""
