"""Public data sets by name, from local copies: twelve in torchvision's layouts, VTAB-1k, and FGVC.

Reading order: `registry` (what a known data set is), then a file for each shape of layout: `arrays`
(pixels in one big file), `idx` (MNIST and its kin), `listed` (images beside a list of labels), `folders` (a folder a class), `vtab` and `fgvc`
(benchmarks of several sets by their own lists).
Nothing is fetched unless asked for.
"""

from petiole.data.readers.public.registry import find, names, write_table

__all__ = ["find", "names", "write_table"]
