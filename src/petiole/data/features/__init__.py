"""Stored visual features by name: HDF5, NPZ, Parquet, memory."""
