"""A class for every pixel: a linear head on the patch tokens of an image backbone."""
