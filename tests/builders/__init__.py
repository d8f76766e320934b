"""Builders that several test files share: small models, data sets and runs, and the command line."""
