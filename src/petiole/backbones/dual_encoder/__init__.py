"""Backbones of images and texts in one space: CLIP, SigLIP, open_clip, OpenAI's files, pairs."""
