"""Checks of sizes and settings that layers and methods share."""

from petiole.errors import ConfigError


def positive(**sizes: int) -> None:
    """Raise ConfigError naming the first size that is not a positive integer."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} must be at least 1, not {size}.")


def above_zero(**values: float) -> None:
    """Raise ConfigError naming the first value that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name} must be above 0, but is {value}.")
