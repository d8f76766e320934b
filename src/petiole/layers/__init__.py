"""Trainable parts that know no backbone: low-rank, bottleneck, pooling, heads."""
