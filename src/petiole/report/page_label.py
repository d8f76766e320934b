"""The page of images that are worth a label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petiole.data.dataset import Dataset, Sample
from petiole.data.typiclust import Choice
from petiole.files import write_text
from petiole.report.flips import FlipExample, thumbnail
from petiole.report.page import REPORT, PageContent, Thumbnails, render
from petiole.report.sections import Fact

MOST = 200
"""Thumbnails, so that a page stays small; the list beside it is whole."""


def write_label_page(
    folder: Path, samples: Sequence[Sample], chosen: Sequence[Choice], every: Dataset
) -> Path:
    """Write ``report.html`` with a thumbnail of each image to label, and return its path.

    Args:
        folder: where it goes.
        samples: to label, the most useful first.
        chosen: why, in the same order.
        every: all images, with those that are labelled already.
    """
    shown = [
        _example(sample, choice) for sample, choice in zip(samples[:MOST], chosen, strict=False)
    ]
    page = PageContent(
        title=f"Label next: {every.name}",
        kind="Selection",
        lede=f"These {len(samples):,} of {len(every):,} images stand for the most others: each is the most typical image "
        "of a cluster without a label.",
        tiles=[
            Fact(f"{len(samples):,}", "images to label"),
            Fact(f"{len(every):,}", "images seen"),
        ],
        done="Vectors of a frozen backbone, scaled to length 1, were divided by k-means into as many clusters as there will "
        "be labels. Clusters without a label come first, the largest of them first (TypiClust; Hacohen et al., 2022).",
        galleries=[Thumbnails("In this order", "", shown)],
        examples=Fact(
            "Images to label", "Under each image: its file, and how many images its cluster has."
        ),
        notes=list(every.notes),
    )
    path = folder / REPORT
    write_text(path, render(page))
    return path


def _example(sample: Sample, choice: Choice) -> FlipExample:
    uri, small = thumbnail(sample)
    label = f"{sample.path.name}, for {choice.size:,}"
    return FlipExample(sample.path.name, uri, small, label, "", "", 0.0)
