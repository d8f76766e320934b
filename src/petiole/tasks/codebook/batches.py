"""Batches for a viewer: rows of the training samples, and images of no domain where a method asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.methods.codebook.base import CodebookMethod
from petiole.tasks.codebook.images import ImageFolder, VisionOutputs
from petiole.tasks.codebook.model import AdaptedCodebookModel, CodebookBatch
from petiole.tasks.text.collator import part_of
from petiole.tasks.text.targets import drawn_target

BATCH = 64
"""Questions a step, where the recipe states none."""


class BatchLoader:
    """A pure function of (seed, step).

    Args:
        adapted: whose encoder sees, and whose words are used.
        method: says what the text tower reads, and whether general images are wanted.
        image_folder: of the samples' images.
        samples: to learn.
        seed: draws targets and general images.
        general: images of no domain.
    """

    def __init__(
        self,
        adapted: AdaptedCodebookModel,
        method: CodebookMethod,
        image_folder: ImageFolder,
        samples: Sequence[TextSample],
        seed: int,
        general: TextDataset | None = None,
    ) -> None:
        assert adapted.model.tokenizer is not None
        self.words, self.seed, self.image_folder = adapted.model.tokenizer, seed, image_folder
        heads = adapted.model.tower.contrast
        self.read = heads.tokenise if heads else None
        self.method, self.samples = method, samples
        self.vision_outputs: VisionOutputs | None = None
        if not adapted.changes_encoder:  # then nothing is looked at twice
            self.vision_outputs = image_folder.vision_outputs(
                adapted, [sample.images[0] for sample in samples]
            )
        self.general: Callable[[np.random.Generator, int], Tensor] | None = None
        if general is not None and method.wants_general:
            others, known = ImageFolder(general.root, adapted.model.tower), general.images
            self.general = lambda rng, n: others(
                [known[i] for i in rng.integers(len(known), size=n)]
            )

    def __call__(
        self, step: int, rows: Sequence[int], process: int, processes: int
    ) -> CodebookBatch:
        """This process's part of a step's rows."""
        rng = np.random.default_rng([self.seed, step])
        targets = [drawn_target(self.samples[i], rng.random())[0] for i in rows]
        own = np.random.default_rng([self.seed, step, process])
        part = part_of(len(rows), process, processes)
        chosen = [self.samples[rows[i]] for i in part]
        names, ids = [sample.images[0] for sample in chosen], self.words
        return CodebookBatch(
            pictures=torch.empty(0) if self.vision_outputs else self.image_folder(names),
            vision_output=self.vision_outputs(names) if self.vision_outputs else None,
            questions=[ids.split(sample.text) for sample in chosen],
            answers=[ids.split(targets[i]) for i in part],
            captions=[ids.split(sample.caption) for sample in chosen],
            texts=[self.read(self.method.text_of(sample)) for sample in chosen]
            if self.read
            else [],
            groups=[sample.label or sample.caption or sample.images[0] for sample in chosen],
            general=self.general(own, len(chosen)) if self.general else None,
        )
