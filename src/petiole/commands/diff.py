"""``petiole diff``: what changes from one adapter to another, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from petiole.commands.options import CommandResult, Data, fact, images_of, plural
from petiole.commands.options import device as device_of
from petiole.commands.trained_on import training_notes
from petiole.commands.verb import verb
from petiole.errors import ConfigError

if TYPE_CHECKING:
    from petiole.backbones.base import Backbone
    from petiole.data.dataset import Dataset
    from petiole.report.page_diff import AdapterOnImages
    from petiole.tasks.classification.adapter import ClassificationAdapter


class DiffResult(CommandResult):
    """Two adapters on the same images.

    Attributes:
        report: the page.
        a, b: adapters.
        images: in all.
        fixed: wrong with A, right with B.
        broken: right with A, wrong with B.
        accuracy: of A and of B.
        classes, domains: of each its images, accuracies, and images fixed, broken and moved from one wrong class to another.
        layers: adapter -> of each block that it moves: role, energy and effective rank of the change.
        notes: on the images, and on classes that were not scored.
    """

    report: Path
    a: Path
    b: Path
    images: int
    fixed: int
    broken: int
    accuracy: tuple[float, float]
    classes: list[dict[str, Any]]
    domains: list[dict[str, Any]]
    layers: dict[str, list[dict[str, Any]]]
    notes: list[str]

    def text(self) -> RenderableType:
        before, after = (f"{100 * value:.2f} %" for value in self.accuracy)
        return Group(
            Text(f"{before} -> {after} correct on {plural(self.images, 'image')}"),
            Text(f"{self.fixed:5d} fixed: wrong with {self.a}, right with {self.b}"),
            Text(f"{self.broken:5d} broken: the other way round"),
            *(Text(f"note     {note}") for note in self.notes),
            fact("page", self.report),
        )


@verb
def diff(
    a: Path,
    b: Path,
    data: Data,
    *,
    out: Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
) -> DiffResult:
    """Compare two adapters on labelled images: flips both ways, by class and domain, and each layer's change.

    Args:
        a: adapter folder, or the run folder around it.
        b: the other one; of other classes than the first's, they are compared on those that both have.
        data: labelled images, as for eval; scored on the classes that both adapters know.
        out: folder of the page; by default runs/diff-A-B.
        device: auto, cpu, cuda, ...
        skip_bad: leave unreadable images out, and count them.

    Raises:
        AdapterError: an adapter is damaged, of another kind, or does not fit its backbone.
        ConfigError: the adapters have no class in common.
        DataError: bad data, or none of the classes that the adapters know.
    """
    from petiole.data.inputs import as_dataset
    from petiole.report.page_diff import group_rows, write_diff_page
    from petiole.tasks.classification.adapter import ClassificationAdapter

    a, b, where = Path(a), Path(b), device_of(device)
    first = ClassificationAdapter.load(a, device=where)
    second = ClassificationAdapter.load(b, **_shared(b, first.adapted.backbone, where))
    classes, left_out = _common(a, b, first.classes, second.classes)
    images = as_dataset(images_of(data), classes=classes, skip_bad=skip_bad, common=True)
    before, after = (
        _seen(path, title, adapter, images, classes)
        for path, title, adapter in zip((a, b), _titles(a, b), (first, second), strict=True)
    )
    domains = sorted(set(images.domains))
    trained = [note for one in (a, b) for note in training_notes(Path(one), images.ids)]
    folder = Path(out) if out else Path("runs") / "-".join(["diff", *_titles(a, b)])
    return DiffResult(
        report=write_diff_page(folder, before, after, images),
        a=a,
        b=b,
        images=len(images),
        fixed=int((~before.correct & after.correct).sum()),
        broken=int((before.correct & ~after.correct).sum()),
        accuracy=(float(before.correct.mean()), float(after.correct.mean())),
        classes=group_rows(before, after, images.labels, images.classes),
        domains=group_rows(before, after, [domains.index(d) for d in images.domains], domains),
        layers={
            title: [block.model_dump() for block in one.blocks]
            for title, one in zip(("a", "b"), (before, after), strict=True)
        },
        notes=[*left_out, *images.notes, *trained],
    )


def _common(
    a: Path, b: Path, first: Sequence[str], second: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The classes of both, and notes on those of one alone.

    Raises:
        ConfigError: there are none of both.
    """
    from petiole.data.dataset import listed

    classes = [name for name in first if name in second]
    if not classes:
        raise ConfigError(
            f"{a} and {b} have no class in common ({listed(list(first))}; {listed(list(second))}), so their predictions "
            "cannot be set side by side."
        )
    alone = ((a, set(first) - set(second)), (b, set(second) - set(first)))
    return classes, [
        f"{len(names)} of the classes are of {path} alone, and nothing is compared or predicted as one: {listed(sorted(names))}."
        for path, names in alone
        if names
    ]


def _shared(path: Path, backbone: Backbone, device: str) -> dict[str, Any]:
    """The first adapter's backbone again where the second was trained on it."""
    from petiole.engine.adapter import find, read_manifest

    card = read_manifest(find(path)).backbone
    same = (card.fingerprint, card.preprocessing) == (backbone.fingerprint, backbone.preprocessing)
    return {"backbone": backbone} if same else {"device": device}


def _titles(a: Path, b: Path) -> tuple[str, str]:
    """Names of the folders, as short as tells them apart."""
    names = [p.parent.name if p.name == "adapter" else p.name for p in (a.resolve(), b.resolve())]
    return (names[0], names[1]) if names[0] != names[1] else ("A", "B")


def _seen(
    path: Path,
    title: str,
    adapter: ClassificationAdapter,
    images: Dataset,
    classes: list[str],
) -> AdapterOnImages:
    import torch

    from petiole.engine.adapter import find
    from petiole.engine.record import count_test_evaluation
    from petiole.report.page_diff import AdapterOnImages
    from petiole.tasks.classification.adapter import logits_of
    from petiole.tasks.classification.predictions import StoredPredictions
    from petiole.tasks.classification.spectrum import changes

    count_test_evaluation(find(path), images.digest(), len(images), "petiole diff")
    logits = logits_of(adapter.adapted, images.samples)
    probabilities = adapter.probabilities(logits)
    if classes != adapter.classes:
        probabilities = probabilities[:, [adapter.classes.index(name) for name in classes]]
        probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)
    stored = StoredPredictions(
        probabilities=probabilities,
        labels=torch.tensor(images.labels.copy()),
        ids=list(images.ids),
        paths=list(map(str, images.paths)),
    )
    return AdapterOnImages(
        title, adapter.manifest.method, stored, classes, changes(adapter.adapted, images)
    )
