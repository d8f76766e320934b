"""Adaptations of an encoder-decoder for several tasks."""
