"""Frozen models behind one face: roles, two halves, preprocessing, fingerprint."""
