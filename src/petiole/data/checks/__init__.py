"""Checks before anything is computed: broken images, leaks between parts."""
