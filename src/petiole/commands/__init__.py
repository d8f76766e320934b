"""The public verbs: one typed function a file, the same in Python and as a command.

These files import quickly; what is heavy is imported inside the functions. A verb returns a
``Result``, which prints itself for people and as JSON.
"""
