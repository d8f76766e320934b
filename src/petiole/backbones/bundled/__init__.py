"""Models inside the package, for work without a network."""
