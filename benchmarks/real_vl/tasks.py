"""NLVR, DAQUAR and a few COCO captions as three folders in the plain format: python benchmarks/real_vl/tasks.py DATA OUT

Parts are those of the sets' readers (DAQUAR by its image-disjoint lists, not by its leaking table); of the captions, whose folder has no test part, the val
photographs are the test. Images are linked, not copied.
"""

from __future__ import annotations

import sys
from pathlib import Path

from petiole.data.readers.jsonl import write_jsonl
from petiole.data.readers.registry import open_task
from petiole.files import write_json

TASKS = {
    "nlvr": ("nlvr", ("dev", "test")),
    "daquar": ("daquar160", ("images",)),
    "caption": ("coco_mini256", ("train2017", "val2017")),
}
KINDS = {"daquar": "answers"}


def main() -> None:
    data, out = map(Path, sys.argv[1:])
    for name, (folder, pictures) in TASKS.items():
        found = open_task(KINDS.get(name, name), data / folder)
        parts = dict(found.parts)
        parts.setdefault("test", parts.get("val", ()))
        (out / name).mkdir(parents=True, exist_ok=True)
        for part in ("train", "test"):
            write_jsonl(out / name / f"{part}.jsonl", parts[part])
        write_json(out / name / "task.json", {"task": found.task})
        for picture in pictures:
            link = out / name / picture
            if not link.exists():
                link.symlink_to((data / folder / picture).resolve())
        print(name, {part: len(parts[part]) for part in ("train", "test")}, *found.notes)


if __name__ == "__main__":
    main()
