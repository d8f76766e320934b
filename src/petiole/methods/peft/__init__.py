"""Layers and tuned copies inside a backbone, or behind it."""
