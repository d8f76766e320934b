"""A classifier as files that need no Petiole: one plug-in a format."""
