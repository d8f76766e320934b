"""Checks of sizes and settings that layers and methods share."""

from petiole.errors import ConfigError


def positive(**sizes: int) -> None:
    """Raise ConfigError naming the first size that is not a positive integer."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} must be at least 1, not {size}.")
