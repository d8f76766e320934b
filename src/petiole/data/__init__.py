"""Images to datasets: sources, splits, k-shot draws, transforms and the leak check.

Reading order: `image` (one file), `dataset` (many), `folder` / `table` / `sources` (where they
lie), `splits` (who gets which), `leaks` (who must not see which), `preprocessing` (what the
backbone sees), `digits` (the demo's own folders).
"""
