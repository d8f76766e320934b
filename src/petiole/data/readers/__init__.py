"""From files to data sets, one layout a file."""
