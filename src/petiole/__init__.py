"""Petiole: adapt frozen vision models with few trained parameters."""
