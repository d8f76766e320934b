"""``petiole label``: which images to label next."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.options import CommandResult, Data, default_cache, fact, name_of, plural
from petiole.commands.options import device as device_of
from petiole.commands.verb import verb
from petiole.ranges import Seed

SHOWN = 20


class ToLabel(BaseModel):
    """One image that is worth a label.

    Attributes:
        path: of the image.
        cluster: number of the cluster that it stands for.
        size: images of that cluster.
        typicality: inverse mean distance to its nearest neighbours there.
    """

    path: str
    cluster: int
    size: int
    typicality: float


class LabelResult(CommandResult):
    """Images to label, the most useful first.

    Attributes:
        folder: with the list and the page.
        csv: the list: path, cluster, size, typicality.
        report: the page.
        backbone: that saw them.
        images: without a label.
        labelled: that have one.
        chosen: in order.
    """

    folder: Path
    csv: Path
    report: Path
    backbone: str
    images: int
    labelled: int
    chosen: list[ToLabel]

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        table.add_column("label next", overflow="fold")
        table.add_column("stands for", justify="right")
        for row in self.chosen[:SHOWN]:
            table.add_row(Text(row.path), plural(row.size, "image"))
        more = len(self.chosen) - SHOWN
        return Group(
            table,
            *([Text(f"… and {more} more")] if more > 0 else []),
            fact("list", self.csv),
            fact("page", self.report),
        )


@verb
def label(
    data: Data,
    *,
    budget: int = 10,
    labelled: Path | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
    seed: Seed = 0,
    out: Path | None = None,
    skip_bad: bool = False,
    quiet: bool = False,
) -> LabelResult:
    """Choose the images of a folder that are worth a label: typical ones, each of another kind.

    Nothing is trained, and no label is read. The vectors of a frozen backbone are divided into as many clusters as there
    will be labels, and each cluster without one gives its most typical image (TypiClust; Hacohen et al., 2022).

    Args:
        data: images, at any depth of a folder; in Python whatever ``petiole.data.inputs.as_images`` takes.
        budget: images that you can label now.
        labelled: folder of images that are labelled already; copies of them in DATA are passed over.
        backbone: image backbone, as for fit; by default the best packaged one.
        weights: local safetensors file for the named architecture.
        device: auto, cpu, cuda, ...
        cache_dir: the feature cache's folder, if it is not the usual one.
        seed: of k-means.
        out: folder of list and page; by default runs/DATA-label-HASH, where HASH is of the images.
        skip_bad: leave unreadable images out, and count them.
        quiet: no progress bars.

    Raises:
        DataError: no images, unreadable ones, or a larger budget than there are images.
    """
    import numpy as np

    from petiole.backbones.registry import load_backbone
    from petiole.commands.defaults import backbone_for
    from petiole.data.typiclust import typiclust
    from petiole.data.unlabelled import unlabelled
    from petiole.engine.feature_extractor import Features
    from petiole.engine.feature_store import FeatureCache
    from petiole.report.page_label import write_label_page

    pool = unlabelled(data, name_of(data), skip_bad=skip_bad)
    known = unlabelled(labelled, name_of(labelled), skip_bad=skip_bad) if labelled else None
    every = pool if known is None else pool.concat(known)
    model = load_backbone(
        backbone or backbone_for(["class-means"]), weights=weights, device=device_of(device)
    )
    cache = FeatureCache(Path(cache_dir) if cache_dir else default_cache())
    vectors = Features(model, cache, quiet=quiet).vectors(every)
    has_label = np.isin(every.ids, known.ids if known else ())
    found = typiclust(vectors, has_label, budget, seed)
    rows = [
        ToLabel(
            path=str(every.paths[one.row]),
            cluster=one.cluster,
            size=one.size,
            typicality=one.typicality,
        )
        for one in found
    ]
    folder = Path(out) if out else Path("runs") / f"{name_of(data)}-label-{pool.digest()[:8]}"
    return LabelResult(
        folder=folder,
        csv=_write(folder / "label.csv", rows),
        report=write_label_page(folder, [every.samples[one.row] for one in found], found, every),
        backbone=model.name,
        images=int((~has_label).sum()),
        labelled=int(has_label.sum()),
        chosen=rows,
    )


def _write(file: Path, rows: list[ToLabel]) -> Path:
    import csv
    import io

    from petiole.files import write_text
    from petiole.printable import cell

    text = io.StringIO()
    table = csv.DictWriter(text, list(ToLabel.model_fields), lineterminator="\n")
    table.writeheader()
    table.writerows({**row.model_dump(), "path": cell(Path(row.path))} for row in rows)
    write_text(file, text.getvalue())
    return file
