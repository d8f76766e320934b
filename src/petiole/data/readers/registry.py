"""Text tasks and their features, from whatever layout a reader recognises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from petiole.data.dataset import bullets, listed
from petiole.data.features.base import FeatureSource
from petiole.data.features.hdf5 import GridFiles
from petiole.data.features.npz import FrameFiles
from petiole.data.features.shards import Shards
from petiole.data.readers.base import LAST, TextReader, folder_needed, readers
from petiole.data.text_dataset import TextDataset
from petiole.errors import DataError, unknown

_GRID = "clip_features/data_clip_RN101_att"


def open_task(name: str, root: Path | str, order: str = "reference") -> TextDataset:
    """Open a task's data.

    Args:
        name: of the task; for a folder in one's own layout (JSON Lines, DAQUAR, NLVR, VQA-RAD, photographs
            with captions) any name, else the name by which a reader is asked for in the ``datasets/`` folder
            of VL-T5 and VL-Adapter (vqa, gqa, nlvr, caption, tvqa, how2qa, tvc, yc2c), or ``question``
            for class folders.
        root: that folder.
        order: of a video's text.

    Raises:
        DataError: no such folder, no annotations of the task, or some that cannot be used.
        ConfigError: an unknown task or order.
    """
    root = Path(root)
    folder_needed(root)
    for reader in readers(TextReader):
        if not reader.task and reader.recognises(root):
            own: TextDataset = reader(root, task=name, order=order)
            return replace(own, task=name)
    reader = _by_task(name)
    if reader.rank == LAST and not reader.recognises(root):
        raise _unrecognised(root)
    opened: TextDataset = reader(root, order=order)
    return opened


def open_questions(root: Path, *, skip_bad: bool = False, task: str = "") -> TextDataset:
    """Open the texts about images that a folder holds, in the layout that its files say.

    Args:
        root: the folder.
        skip_bad: of class folders, leave unreadable and contradicting images out instead of refusing.
        task: of JSON Lines without ``task.json``.

    Raises:
        DataError: no such folder, none of the layouts (what was looked for and what is there is named),
            several tasks at once, or one that cannot be used; JSON Lines that say no task where none is given.
    """
    folder_needed(root)
    found = [reader for reader in readers(TextReader) if reader.recognises(root)]
    if not found:
        raise _unrecognised(root)
    first = found[0]
    rivals = [reader.task for reader in found if first.task and reader.rank == first.rank]
    if len(rivals) > 1:
        raise DataError(
            f"{root}: holds the tasks {', '.join(rivals)}. Say which one: {rivals[0]}={root}."
        )
    opened: TextDataset = first(root, skip_bad=skip_bad, default=task)
    return opened


def is_video(task: str) -> bool:
    """Whether a task's images are videos, with subtitles in the text."""
    return any(reader.task == task and reader.video for reader in readers(TextReader))


def open_features(name: str, root: Path | str) -> FeatureSource:
    """Open a task's features below the ``datasets/`` folder of VL-T5 and VL-Adapter, as they are stored.

    Of images: HDF5 files (``COCO/clip_features/...``) or Parquet shards (``features/COCO/...``); of
    videos: ``video/vis_features/<source>/clip-vit``.

    Raises:
        DataError: there are none; all folders that were looked for are named.
        ConfigError: an unknown task.
    """
    root, reader = Path(root), _by_task(name, stored=True)
    if reader.video:
        return FrameFiles(root / "video" / "vis_features" / reader.features[0] / "clip-vit")
    shards = [root / "features" / f / Path(_GRID).name for f in reader.features]
    files = [root / f / _GRID for f in reader.features]
    kinds: list[tuple[Callable[..., FeatureSource], list[Path]]]
    kinds = [(Shards, shards), (GridFiles, files)]
    for kind, folders in kinds:
        if present := [folder for folder in folders if folder.is_dir()]:
            return kind(*present)
    wanted = ", ".join(str(folder) for folder in (*shards, *files))
    raise DataError(f"{root}: no features of {name}. Expected one of {wanted}.")


def _by_task(name: str, *, stored: bool = False) -> TextReader:
    """The reader of a task; of those with stored features alone, if ``stored``."""
    known = {r.task: r for r in readers(TextReader) if r.task and (r.features or not stored)}
    if name not in known:
        raise unknown("task", name, known)
    return known[name]


def _unrecognised(root: Path) -> DataError:
    inside = sorted(p.name for p in root.iterdir() if not p.name.startswith("."))
    layouts = [f"{reader.name}: {reader.layout}" for reader in readers(TextReader)]
    return DataError(
        f"{root}: holds no questions about images. Looked for\n{bullets(layouts, len(layouts))}\n"
        f"It holds {listed(inside)}. Put one of them there."
    )
