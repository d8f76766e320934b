"""Backbones of images: vision transformers and convolutional networks."""
