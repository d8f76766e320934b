"""Labelled images of one or two domains: cross-entropy, accuracy."""
