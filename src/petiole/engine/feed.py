"""Batches for a viewer: rows of the training samples, and images of no domain where a method asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from petiole.data.vl.parts import VLData
from petiole.data.vl.sample import Sample
from petiole.engine.gallery import Gallery, Looks
from petiole.engine.lessons import part_of
from petiole.engine.viewer import Lookout, Viewer
from petiole.methods.lvlm import LVLMMethod
from petiole.tasks.training import drawn_target


class Feed:
    """A pure function of (seed, step).

    Args:
        viewer: whose encoder sees, and whose words are used.
        method: says what the text tower reads, and whether general images are wanted.
        gallery: of the samples' images.
        samples: to learn.
        seed: draws targets and general images.
        general: images of no domain.
    """

    def __init__(
        self,
        viewer: Viewer,
        method: LVLMMethod,
        gallery: Gallery,
        samples: Sequence[Sample],
        seed: int,
        general: VLData | None = None,
    ) -> None:
        assert viewer.model.tokenizer is not None
        self.words, self.seed, self.gallery = viewer.model.tokenizer, seed, gallery
        heads = viewer.model.tower.contrast
        self.read = heads.tokenise if heads else None
        self.method, self.samples = method, samples
        self.looks: Looks | None = None
        if not viewer.changes_eye:  # then nothing is looked at twice
            self.looks = gallery.looks(viewer, [sample.images[0] for sample in samples])
        self.general: Callable[[np.random.Generator, int], Tensor] | None = None
        if general is not None and method.wants_general:
            others, known = Gallery(general.root, viewer.model.tower), general.images
            self.general = lambda rng, n: others(
                [known[i] for i in rng.integers(len(known), size=n)]
            )

    def __call__(self, step: int, rows: Sequence[int], process: int, processes: int) -> Lookout:
        """This process's part of a step's rows."""
        rng = np.random.default_rng([self.seed, step])
        said = [drawn_target(self.samples[i], rng.random())[0] for i in rows]
        own = np.random.default_rng([self.seed, step, process])
        part = part_of(len(rows), process, processes)
        chosen = [self.samples[rows[i]] for i in part]
        names, ids = [sample.images[0] for sample in chosen], self.words
        return Lookout(
            pictures=torch.empty(0) if self.looks else self.gallery(names),
            look=self.looks(names) if self.looks else None,
            questions=[ids.split(sample.text) for sample in chosen],
            answers=[ids.split(said[i]) for i in part],
            captions=[ids.split(sample.caption) for sample in chosen],
            texts=[self.read(self.method.text_of(sample)) for sample in chosen]
            if self.read
            else [],
            groups=[sample.label or sample.caption or sample.images[0] for sample in chosen],
            general=self.general(own, len(chosen)) if self.general else None,
        )
