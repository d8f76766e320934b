"""Lay class folders of Caltech-101 out as CoOp does: split_zhou_Caltech101.json beside links to the images.

Faces_easy is left out and four classes get CoOp's names (as CoOp's Caltech101; Zhou et al., 2022); labels follow the folders' names. The
lists are those of the given train/ and test/ folders, so this is *not* CoOp's published split.

    python benchmarks/real_pair/layout.py SOURCE OUT
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

NAMES = {
    "airplanes": "airplane",
    "Faces": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("source", type=Path, help="with train/<class>/ and test/<class>/")
    options.add_argument("out", type=Path)
    chosen = options.parse_args()
    folders = sorted(
        {f.name for part in ("train", "test") for f in (chosen.source / part).iterdir()}
    )
    folders = [name for name in folders if name != "Faces_easy"]
    images = chosen.out / "101_ObjectCategories"
    images.mkdir(parents=True)
    parts: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for part in ("train", "test"):
        os.symlink((chosen.source / part).absolute(), images / part)
        for label, folder in enumerate(folders):
            files = sorted((chosen.source / part / folder).iterdir())
            name = NAMES.get(folder, folder)
            parts[part] += [(f"{part}/{folder}/{file.name}", label, name) for file in files]
    text = json.dumps(parts, indent=4)
    (chosen.out / "split_zhou_Caltech101.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
