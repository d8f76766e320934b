"""VTAB-1k: nineteen tasks of 1,000 training images, in the layout that parameter-efficient methods share.

    vtab-1k/<task>/train800val200.txt, test.txt       "images/train/000000.jpg 17", a line an image
    vtab-1k/<task>/images/...

Source: Zhai et al., "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark" (2019);
the lists are those that NOAH, SSF and their successors read.
"""

from __future__ import annotations

from petiole.data.checks.images import ImageFile
from petiole.data.readers.public.registry import Parts, Place, known, lines_of, present, readable

_ROOT = "vtab-1k"
_PARTS = {"train": "train800val200.txt", "test": "test.txt"}

# Folder: classes, test images.
TASKS = {
    "caltech101": (102, 6_084),
    "cifar": (100, 10_000),
    "dtd": (47, 1_880),
    "oxford_flowers102": (102, 6_149),
    "oxford_iiit_pet": (37, 3_669),
    "svhn": (10, 26_032),
    "sun397": (397, 21_750),
    "patch_camelyon": (2, 32_768),
    "eurosat": (10, 5_400),
    "resisc45": (45, 6_300),
    "diabetic_retinopathy": (5, 42_670),
    "clevr_count": (8, 15_000),
    "clevr_dist": (6, 15_000),
    "dmlab": (6, 22_735),
    "kitti": (4, 711),
    "dsprites_loc": (16, 73_728),
    "dsprites_ori": (16, 73_728),
    "smallnorb_azi": (18, 12_150),
    "smallnorb_ele": (9, 12_150),
}
"""The tasks of the benchmark: natural, specialised and structured images."""


def _register(task: str, classes: int, test: int) -> None:
    folder = f"{_ROOT}/{task}"

    @known(
        f"vtab-{task.replace('_', '-')}",
        classes=classes,
        images=1_000 + test,
        url="https://github.com/google-research/task_adaptation",
        needs=[f"{folder}/{name}" for name in (*_PARTS.values(), "images")],
    )
    def read(place: Place) -> Parts:
        place.need()
        return {part: _listed(place, folder, name) for part, name in _PARTS.items()}


def _listed(place: Place, folder: str, name: str) -> list[ImageFile]:
    file = place.root / folder / name
    rows = [line.rpartition(" ") for line in lines_of(file)]
    with readable(file):
        if bad := [row for row in rows if not row[0] or not row[2].isdecimal()]:
            raise ValueError(f"{''.join(bad[0])!r} is no path and number of a class")
    # Two digits and more, so that the order of names is that of the numbers.
    width = max(len(row[2]) for row in rows)
    return present((place.root / folder / path, label.zfill(width)) for path, _, label in rows)


for _task, (_classes, _test) in TASKS.items():
    _register(_task, _classes, _test)
