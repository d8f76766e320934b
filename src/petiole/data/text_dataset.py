"""A vision-language data set: samples of one task in parts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from petiole.data.text_sample import TextSample
from petiole.errors import DataError

PARTS = ("train", "val", "test")
"""Names of the parts, in order."""

_LATER = ("caption", "label", "facts")  # fields that came after runs had been recorded


@dataclass(frozen=True)
class TextDataset:
    """Samples of one task by part.

    Attributes:
        task: how it is asked and scored.
        root: folder that image names start from, where they name files.
        parts: those of `PARTS` that there are.
        notes: what was decided while reading, one sentence each.

    Raises:
        DataError: a part has a key twice.
    """

    task: str
    root: Path
    parts: Mapping[str, tuple[TextSample, ...]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, samples in self.parts.items():
            seen: set[str] = set()
            for sample in samples:
                if sample.key in seen:
                    raise DataError(
                        f"{self.root}: {part} has id {sample.key!r} twice. Make the ids unique."
                    )
                seen.add(sample.key)

    def __getitem__(self, part: str) -> tuple[TextSample, ...]:
        if part not in self.parts:
            raise DataError(
                f"{self.root}: {self.task} has no part {part!r}; "
                f"it has {', '.join(self.parts) or 'none'}. Add the file of that part."
            )
        return self.parts[part]

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Names of all images and videos, sorted, each once."""
        samples = (s for part in self.parts.values() for s in part)
        return tuple(sorted({name for sample in samples for name in sample.images}))

    def missing(self) -> tuple[str, ...]:
        """Return the image names that are neither file nor folder below ``root``."""
        return tuple(name for name in self.images if not os.path.exists(self.root / name))

    def digest(self) -> str:
        """SHA-256 (hex) over task and samples in order: equal wherever the files lie."""
        content = {part: [_content(s) for s in samples] for part, samples in self.parts.items()}
        text = json.dumps([self.task, content], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _content(sample: TextSample) -> dict[str, object]:
    """Its fields; later ones only where they are set, so that digests from before them stay as they were."""
    return {k: v for k, v in asdict(sample).items() if v or k not in _LATER}


def gather(
    task: str,
    root: Path,
    files: Mapping[str, Sequence[Path]],
    read: Callable[[Path, str], Iterable[TextSample]],
    notes: tuple[str, ...] = (),
) -> TextDataset:
    """Read the annotation files that exist.

    Args:
        task: of the data set.
        root: its folder.
        files: part -> its files, joined in order.
        read: (file, part) -> samples.
        notes: passed on.

    Raises:
        DataError: none of the files exists; all names are listed.
    """
    present = {part: [p for p in paths if p.is_file()] for part, paths in files.items()}
    parts = {
        part: tuple(sample for path in paths for sample in read(path, part))
        for part, paths in present.items()
        if paths
    }
    if not parts:
        wanted = ", ".join(str(p) for paths in files.values() for p in paths)
        raise DataError(f"{root}: no annotations of {task}. Expected at least one of {wanted}.")
    return TextDataset(task, root, parts, notes)


def hold_out(
    samples: Sequence[TextSample], share: float
) -> tuple[tuple[TextSample, ...], tuple[TextSample, ...]]:
    """Split samples into kept and held out, such that no group and no image is torn.

    What is drawn is the sample's group, else its images, else its key, by its SHA-256 alone: the same
    ones are held out wherever and in whatever order samples are read. Images that lie in several
    groups are the caller's business.

    Args:
        samples: of one part.
        share: of the units that is held out, in 0..1.
    """
    held = [_unit_interval(s.group or "\n".join(s.images) or s.key) < share for s in samples]
    kept = tuple(s for s, h in zip(samples, held, strict=True) if not h)
    return kept, tuple(s for s, h in zip(samples, held, strict=True) if h)


def _unit_interval(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
