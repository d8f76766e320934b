"""A number an image."""
