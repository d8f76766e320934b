"""Data and features by the name of a task, from whatever layout is found below a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from petiole.data.features.base import FeatureSource
from petiole.data.features.hdf5 import GridFiles
from petiole.data.features.npz import FrameFiles
from petiole.data.features.shards import Shards
from petiole.data.readers.captions import open_coco, open_coco_folder
from petiole.data.readers.daquar import open_daquar
from petiole.data.readers.gqa import open_gqa
from petiole.data.readers.jsonl import open_plain
from petiole.data.readers.nlvr import open_nlvr, open_nlvr2
from petiole.data.readers.questions import TASK, open_questions
from petiole.data.readers.video import Order, open_how2qa, open_tvc, open_tvqa, open_yc2c
from petiole.data.readers.vqa import open_vqa
from petiole.data.readers.vqa_rad import ANNOTATIONS, open_vqa_rad
from petiole.data.text_dataset import PARTS, TextDataset
from petiole.errors import DataError, unknown
from petiole.registry import Registry

READERS = Registry[Callable[[Path], TextDataset]](
    "task", "petiole.data.readers", "READERS.register", "petiole.readers"
)
"""Readers of tasks that other distributions add: a task's name -> what opens its folder."""

IMAGE_TASKS: Mapping[str, Callable[[Path], TextDataset]] = {
    "vqa": open_vqa,
    "gqa": open_gqa,
    "nlvr": open_nlvr2,
    "caption": open_coco,
}
"""Tasks by their files below the reference's ``datasets/`` folder (vladapter.md 5)."""

VIDEO_TASKS: Mapping[str, Callable[[Path, Order], TextDataset]] = {
    "tvqa": open_tvqa,
    "how2qa": open_how2qa,
    "tvc": open_tvc,
    "yc2c": open_yc2c,
}
"""As `IMAGE_TASKS`, with subtitles in the text."""

OWN_LAYOUTS: Mapping[str, Callable[[Path], TextDataset]] = {
    "train_images_list.txt": open_daquar,
    "train2017.json": open_coco_folder,
    "val2017.json": open_coco_folder,
    "dev.json": open_nlvr,
    ANNOTATIONS: open_vqa_rad,
}
"""Layouts of a folder of its own, by a file that only they have."""

_GRID = "clip_features/data_clip_RN101_att"
_FOLDERS = {
    "vqa": ("COCO",),
    "caption": ("COCO",),
    "gqa": ("VG", "GQA"),
    "nlvr": ("nlvr",),
    "tvqa": ("tv",),
    "tvc": ("tv",),
    "how2qa": ("how2",),
    "yc2c": ("yc2",),
}


def open_task(name: str, root: Path | str, order: Order = "reference") -> TextDataset:
    """Open a task's data.

    Args:
        name: of the task; for a folder in one's own layout (JSON Lines, DAQUAR, NLVR, VQA-RAD, photographs
            with captions) any name, else one of `IMAGE_TASKS` or `VIDEO_TASKS`, or ``question`` for class
            folders.
        root: that folder, or the reference's ``datasets/``.
        order: of a video's text.

    Raises:
        DataError: no such folder, no annotations of the task, or some that cannot be used.
        ConfigError: an unknown task or order.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of data. Check the path.")
    if any((root / f"{part}.jsonl").is_file() for part in PARTS):
        return open_plain(root, name)
    for file, open_layout in OWN_LAYOUTS.items():
        if (root / file).is_file():
            return replace(open_layout(root), task=name)
    if name in IMAGE_TASKS:
        return IMAGE_TASKS[name](root)
    if name in VIDEO_TASKS:
        return VIDEO_TASKS[name](root, order)
    if name == TASK:
        return open_questions(root)
    if open_it := READERS.get(name):
        return replace(open_it(root), task=name)
    raise unknown("task", name, [*IMAGE_TASKS, *VIDEO_TASKS, TASK, *READERS.names()])


def open_features(name: str, root: Path | str) -> FeatureSource:
    """Open a task's features below the reference's ``datasets/`` folder, as they are stored.

    Of images: HDF5 files (``COCO/clip_features/...``) or Parquet shards (``features/COCO/...``); of
    videos: ``video/vis_features/<source>/clip-vit``.

    Raises:
        DataError: there are none; all folders that were looked for are named.
        ConfigError: an unknown task.
    """
    root = Path(root)
    if name not in _FOLDERS:
        raise unknown("task", name, _FOLDERS)
    if name in VIDEO_TASKS:
        return FrameFiles(root / "video" / "vis_features" / _FOLDERS[name][0] / "clip-vit")
    shards = [root / "features" / f / Path(_GRID).name for f in _FOLDERS[name]]
    files = [root / f / _GRID for f in _FOLDERS[name]]
    kinds: list[tuple[Callable[..., FeatureSource], list[Path]]]
    kinds = [(Shards, shards), (GridFiles, files)]
    for kind, folders in kinds:
        if present := [folder for folder in folders if folder.is_dir()]:
            return kind(*present)
    wanted = ", ".join(str(folder) for folder in (*shards, *files))
    raise DataError(f"{root}: no features of {name}. Expected one of {wanted}.")
