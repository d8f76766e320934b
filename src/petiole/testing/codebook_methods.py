"""What every method for vision-language models over a codebook must do. A new method gets all of it by existing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petiole.backbones.codebook_lvlm import LVLM
from petiole.data.text_dataset import TextDataset
from petiole.errors import ConfigError
from petiole.ledger import ledger
from petiole.methods.base import Changes
from petiole.methods.codebook.base import CodebookMethod
from petiole.methods.registry import create, settings_of
from petiole.tasks.codebook.adapter import (
    CodebookAdapter,
    Frequencies,
    build_model,
    method_of,
)
from petiole.tasks.codebook.batches import BatchLoader
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import AdaptedCodebookModel, CodebookLoss
from petiole.testing import codebook_lvlm as tiny
from petiole.testing.contract import Clause, clause, require, require_equal
from petiole.testing.random_weights import seeded
from petiole.testing.untouched import untouched

QUESTIONS = ["what shape is the red thing ?", "how many things ?", "what is at top left ?"]


@dataclass
class CodebookCase:
    """One method on one tiny vision-language model, before questions about a board.

    Attributes:
        name: of the method, as it is registered.
        family: of the language model.
        folder: to write images, questions and an adapter to.
        settings: of the method.
    """

    name: str
    family: tiny.Family
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def method(self) -> CodebookMethod:
        """The method itself."""
        return method_of(self.name, self.settings)

    @cached_property
    def model(self) -> LVLM:
        """Frozen, of the kind that the method is for."""
        return tiny.model(self.family, discrete=self.method.discrete is not False)

    @cached_property
    def data(self) -> TextDataset:
        """Questions, answers and captions."""
        return tiny.data(self.folder / "data", "tail", train=8, test=2)

    def adapted(self, seed: int = 0) -> AdaptedCodebookModel:
        """Freshly initialised, in evaluation mode."""
        with seeded(seed):
            return build_model(self.method, self.model).eval()

    @cached_property
    def trained(self) -> AdaptedCodebookModel:
        """After two steps of descent on everything that asks for gradients."""
        made = self.adapted()
        loss_module = CodebookLoss(made, self.method.losses(self.model)).train()
        own = [p for p in loss_module.parameters() if p.requires_grad]
        if own:
            images = ImageFolder(self.data.root, self.model.tower)
            loader = BatchLoader(made, self.method, images, self.data["train"], 0, self.data)
            batch, optimizer = loader(0, range(4), 0, 1), torch.optim.Adam(own, lr=1e-2)
            with made.attached(), seeded(7):
                for _ in range(2):
                    optimizer.zero_grad()
                    loss_module(batch).backward()
                    optimizer.step()
        return made.eval()

    def z(self, adapted: AdaptedCodebookModel | None = None) -> Tensor:
        """Tokens of three images before quantisation, (3, N, d); of the bare encoder without a model."""
        with torch.no_grad():
            return (adapted or self.model.tower).encode_images(tiny.pictures()).z


def declared(adapted: AdaptedCodebookModel) -> set[str]:
    """Names of all that is trained."""
    return {name for name, p in adapted.named_parameters() if p.requires_grad}


def identity(case: CodebookCase) -> bool | None:
    """Whether the method's changes in the encoder say that they start as the bare encoder."""
    return case.method.encoder_changes(case.model).identity


@clause(
    means="The language model reads the codebook that it was trained with. If codebook, projector, language model or the "
    "bare encoder move, one tuned encoder no longer fits every language model.",
    remedy="Train only what encoder_changes() and language_changes() declare; every declared parameter must lie in the forward pass of a "
    "loss whose weight is not 0.",
)
def moves_all_it_declares_and_nothing_else(case: CodebookCase) -> None:
    """After two steps everything trained has moved; the model keeps every bit and asks for no gradients."""
    start = case.adapted().state_dict()
    with untouched(case.model, case.model.tower.image_backbone):
        made = case.trained
    moved = {n for n, value in made.state_dict().items() if not torch.equal(value, start[n])}
    still, beside = declared(made) - moved, moved - declared(made)
    require(not still, f"{', '.join(sorted(still)[:3])} did not move in two steps")
    require(not beside, f"{', '.join(sorted(beside)[:3])} moved, but is not trained")
    sides = {"encoder": "encoder.", "language side": "language."}
    changed = {side for side, prefix in sides.items() if any(n.startswith(prefix) for n in moved)}
    allowed = {"encoder"} if not case.method.adapts_language else set(sides)
    require(changed <= allowed, f"adapts_language=False, but the {changed - allowed} changed")


@clause(
    means="Codes flip because the encoder has learnt, not because it was built; the start is what is compared with.",
    remedy="Start branches at zero, or state identity=False in the encoder's changes.",
)
def starts_where_it_says(case: CodebookCase) -> None:
    """A fresh encoder sees bit for bit what the bare one sees, unless its changes say otherwise."""
    if identity(case):
        require_equal(case.z(case.adapted()), case.z(), "tokens of the fresh and the bare encoder")


@clause(
    means="The bare model serves beside the adapted one, and losses compare with it while training goes on.",
    remedy="Change values through Attach and tuned copies only.",
)
def leaves_no_trace(case: CodebookCase) -> None:
    """Looking, answering and training leave the bare model's tokens and answers as they were."""
    bare = AdaptedCodebookModel(case.model, Changes(), Changes())
    with torch.no_grad():
        seen = case.model.tower.encode_images(tiny.pictures())
    want = bare.answer(seen, QUESTIONS, longest=5)
    adapted = case.trained
    with untouched(case.model, case.model.tower.image_backbone):
        with torch.no_grad():
            adapted.answer(adapted.encode_images(tiny.pictures()), QUESTIONS, longest=5)
        require_equal(case.z(), seen.z, "tokens of the bare encoder before and after")
        require_equal(bare.answer(seen, QUESTIONS, longest=5), want, "answers of the bare model")


@clause(
    means="A tuned encoder that is saved and opened again would see otherwise than the one that was trained.",
    remedy="Keep all that prediction needs as parameters or persistent buffers of the layers.",
)
def survives_saving(case: CodebookCase) -> None:
    """Saved and opened again before the same model, it gives the same bits and answers."""
    adapted, spec = case.trained, case.model.spec
    shape = (spec.depth, spec.entries)
    frequencies = Frequencies(torch.ones(shape), torch.ones(shape))
    settings = settings_of(case.method)
    saved = CodebookAdapter.of(adapted, frequencies, method=case.name, settings=settings)
    saved.save(case.folder / "adapter")
    again = CodebookAdapter.load(case.folder / "adapter", backbone=case.model).adapted
    require_equal(case.z(again), case.z(adapted), "tokens after opening")
    with torch.no_grad():
        seen = adapted.encode_images(tiny.pictures())
    answers, want = (one.answer(seen, QUESTIONS, longest=5) for one in (again, adapted))
    require_equal(answers, want, "answers after opening")
    require_equal(method_of(case.name, settings), case.method, "the method from its settings")


@clause(
    means="The ledger is what tables print: parameters trained and served.",
    remedy="Hand every module to Changes (attach or shared), name copies in tune; losses keep their own parameters.",
)
def counts_as_the_ledger_says(case: CodebookCase) -> None:
    """The ledger's trained parameters are those that ask for gradients."""
    adapted, counted = case.adapted(), ledger(case.model, case.method)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    losses = CodebookLoss(adapted, case.method.losses(case.model)).losses
    dropped = sum(p.numel() for p in losses.parameters() if p.requires_grad)
    require_equal(counted.training_only, dropped, "training-only parameters")
    require_equal(counted.trainable, trained + dropped, "trained parameters")


@clause(
    means="A method for language models that see codes means nothing on one that sees continuous features, and the other "
    "way round.",
    remedy="State discrete = True, False or None (both) in the class.",
)
def refuses_the_other_kind_of_model(case: CodebookCase) -> None:
    """A model of the wrong kind is refused with its name."""
    if case.method.discrete is None:
        return
    other = tiny.model(case.family, discrete=not case.method.discrete)
    try:
        create(case.name, case.settings).check(other)  # type: ignore[attr-defined]
    except ConfigError as error:
        require(other.name in str(error), f"the error does not name the model: {error}")
    else:
        require(False, "a model of the other kind is accepted")


CLAUSES: tuple[Clause[CodebookCase], ...] = (
    moves_all_it_declares_and_nothing_else,
    starts_where_it_says,
    leaves_no_trace,
    survives_saving,
    counts_as_the_ledger_says,
    refuses_the_other_kind_of_model,
)
