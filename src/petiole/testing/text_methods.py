"""What every method for language models must do, on a BART and on a T5. A new method gets all of it by existing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.errors import ConfigError
from petiole.ledger import sizes
from petiole.methods.base import Plan
from petiole.methods.registry import create, settings_of
from petiole.methods.text import TextMethod
from petiole.tasks.text.collator import Collator
from petiole.tasks.text.model import AdaptedTextModel, GenerationBatch, GenerationLoss
from petiole.testing import encoder_decoder as tiny
from petiole.testing.contract import Clause, clause, require, require_close, require_equal
from petiole.testing.untouched import untouched

SMALL = {"rank": 3, "hidden": 5, "prompts": 3, "prefix": 3}
"""Sizes of layers where the method has such settings and can have these values."""
SHARINGS = ("half_up", "half_down", "multiple")
UNUSED = ("visual/boxes/weight",)
"""Zero boxes: these weights count as trained, as published, and never learn."""
ROUNDING = ("k_proj/bias",)
"""Softmax takes out what is the same for every key, so these move by rounding errors or not at all."""


@dataclass
class TextCase:
    """One method on one tiny encoder-decoder, for three tasks.

    Attributes:
        name: of the method, as it is registered.
        family: ``bart`` or ``t5``.
        settings: of the method.
    """

    name: str
    family: tiny.Family
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def model(self) -> Seq2Seq:
        """Frozen; its weights are large enough for every part of it to matter."""
        return tiny.strong(self.family)

    @cached_property
    def small(self) -> dict[str, Any]:
        """Sizes that the method can have."""
        found: dict[str, Any] = {}
        for key in SMALL:  # in this order: a set's would draw other weights in every process
            if key not in settings_of(create(self.name)):
                continue
            try:
                self._build({**found, key: SMALL[key]}).plan(self.model)
            except ConfigError:
                continue
            found[key] = SMALL[key]
        return found

    def _build(self, settings: Mapping[str, Any]) -> TextMethod:
        made = create(self.name, {"tasks": 3, **settings})
        assert isinstance(made, TextMethod)
        return made

    def method(self, **settings: Any) -> TextMethod:
        """The method with small layers."""
        return self._build({**self.small, **self.settings, **settings})

    def changes(self, **settings: Any) -> Plan:
        """Its fresh layers."""
        return self.method(**settings).plan(self.model)

    def adapted(self, seed: int = 0, **settings: Any) -> AdaptedTextModel:
        """Freshly initialised, in evaluation mode."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return AdaptedTextModel(self.model, self.changes(**settings)).eval()

    def trained(self, **settings: Any) -> AdaptedTextModel:
        """Trained, as far as numbers can tell: every parameter is elsewhere."""
        return tiny.moved(self.adapted(**settings))

    def batch(self, tasks: tuple[int, ...] = (0, 1, 2, 2, 0, 1)) -> GenerationBatch:
        """One row for each of these task numbers."""
        data = tiny.tasks()
        rows = [(t, data[t].parts["train"][i]) for i, t in enumerate(tasks)]
        return Collator(self.model, data).batch(rows, np.random.default_rng(0))


def scores(one: AdaptedTextModel, of: GenerationBatch) -> Tensor:
    """Scores (B, T, V) of the batch's own answers."""
    with torch.no_grad():
        found: Tensor = one(of.inputs, of.labels, of.tasks)
    return found


def only(inputs: Inputs, rows: list[int]) -> Inputs:
    """These rows alone."""
    chosen: dict[str, Any] = {k: v[rows] for k, v in vars(inputs).items() if isinstance(v, Tensor)}
    return replace(inputs, **chosen)


@clause(
    means="A parameter that is declared but never moves is counted without use; a language model that moves is no longer "
    "the one whose fingerprint the adapter file holds.",
    remedy="Attach every layer at a role that the forward pass reaches; name what is trained in Changes.tune and what is "
    "only stored in Changes.kept.",
)
def moves_all_it_declares_and_nothing_else(case: TextCase) -> None:
    """After two steps everything trained has moved, and of the model no byte has."""
    with untouched(case.model):
        one = case.adapted()
        fresh = {key: value.clone() for key, value in one.state_dict().items()}
        own = {key: p for key, p in one.named_parameters() if p.requires_grad}
        kept = {f"tuned.{name.replace('.', '/')}" for name in one.plan.frozen_copies}
        require_equal(sorted(fresh), sorted({*own, *kept}), "stored tensors")
        optimizer = torch.optim.AdamW(own.values(), weight_decay=0)
        loss_module = GenerationLoss(one).train()
        for _ in range(2):
            optimizer.zero_grad()
            loss_module(case.batch()).backward()
            optimizer.step()
    for key, value in one.state_dict().items():
        require(torch.isfinite(value).all(), f"{key} is not finite after training")
        stays, moved = key in kept or key.endswith(UNUSED), not torch.equal(value, fresh[key])
        require(
            moved != stays or key.endswith(ROUNDING),
            f"{key} {'moved' if moved else 'did not move'} in two steps",
        )


@clause(
    means="An adapter that is saved and opened again would answer otherwise than the one that was trained.",
    remedy="Keep all that prediction needs as parameters or persistent buffers of the layers in Changes.",
)
def is_whole_in_its_state(case: TextCase) -> None:
    """Another start with the same state gives the same bits."""
    one, other = case.trained(), tiny.moved(case.adapted(seed=9), seed=6)
    want = scores(one, case.batch())
    require(not torch.equal(scores(other, case.batch()), want), "trained values change no score")
    other.load_state_dict(one.state_dict())
    require_equal(scores(other, case.batch()), want, "scores with the same state")


@clause(
    means="Changes.identity states whether fresh layers leave the model's function as it is, bit by bit.",
    remedy="Start the last factor of every branch at zero, or let starts_as_it_was() return False.",
)
def starts_where_it_says(case: TextCase) -> None:
    """Fresh layers give the bare model's scores if, and only if, the method says so."""
    one = case.adapted()
    bare = AdaptedTextModel(
        case.model, Plan(tune=one.plan.tune, frozen_copies=one.plan.frozen_copies)
    )
    bare.eval().load_state_dict(one.state_dict(), strict=False)  # a fresh V->L block is drawn anew
    want, got = scores(bare, case.batch()), scores(one, case.batch())
    require(torch.isfinite(got).all(), "fresh scores are not finite")
    same, says = torch.equal(got, want), one.changes.identity
    require(
        says is None or same == says,
        f"the method says identity={says}, but fresh and bare scores are {'the same' if same else 'not the same'}",
    )


@clause(
    means="Rows of several tasks share a batch; each must be scored as if it were alone, by its own task's layers.",
    remedy="Route through layers.tasks (TextMethod.for_tasks), mix no rows, and let padding have no effect.",
)
def scores_a_row_as_alone(case: TextCase) -> None:
    """A row among others is as it is alone."""
    mixed_is_alone(case)


@clause(
    means="Sharing between tasks is a property of any layer, chosen by the user; the parameters must be between those of "
    "one layer for all tasks and one for each.",
    remedy="Make layers with TextMethod.for_tasks; set shares = False if there are none that tasks can share.",
)
def shares_layers_as_asked(case: TextCase) -> None:
    """Half-shared layers have more parameters than one, fewer than one for each task, and work."""
    if not case.method().shares or "sharing" in case.settings:
        return
    size = {
        s: sizes(case.model, case.changes(sharing=s)).trained_parts["layers"]
        for s in ("single", "multiple")
    }
    for sharing in SHARINGS:
        try:
            one = mixed_is_alone(case, sharing=sharing)
        except ConfigError:  # a layer without halves; it says so
            continue
        got = sum(p.numel() for key, p in one.named_parameters() if not key.startswith("tuned."))
        right = size["single"] < got <= size["multiple"]
        right &= (got == size["multiple"]) == (sharing == "multiple")
        require(right, f"sharing={sharing} has {got} parameters beside {size}")


def mixed_is_alone(case: TextCase, **settings: Any) -> AdaptedTextModel:
    """Raise Unmet unless every row of a batch of three tasks is scored as it is alone; return the model."""
    one, of, made = case.trained(**settings), case.batch(), case.method(**settings)
    mixed = scores(one, of)
    for task in range(3):
        rows = [i for i, t in enumerate(of.tasks) if t == task]
        with torch.no_grad():
            alone = one(only(of.inputs, rows), of.labels[rows], [task] * len(rows))
        require_close(mixed[rows], alone, 1e-5, f"scores of task {task} in a batch and alone")
    with torch.no_grad():
        wrong = one(of.inputs, of.labels, [0] * len(of.tasks))
    same = torch.allclose(wrong, mixed, atol=1e-5)
    if made.sharing != "single":
        require(not same, f"with sharing={made.sharing} all tasks are scored by the first's layers")
    elif made.shares:
        require(same, "with sharing=single the score depends on the task")
    return one


@clause(
    means="The ledger is what tables print: parameters trained, added, stored.",
    remedy="Hand every module to Changes (attach or shared); name copies in tune or frozen_copies.",
)
def counts_as_the_ledger_says(case: TextCase) -> None:
    """The ledger's numbers are those of the model."""
    one, got = case.adapted(), sizes(case.model, case.changes())
    state = one.state_dict()
    trained = sum(p.numel() for p in one.parameters() if p.requires_grad)
    require_equal(got.trainable, trained, "trained parameters")
    stored = sum(v.numel() for v in state.values())
    require_equal(got.trainable + got.fixed, stored, "stored numbers")
    tuned = sum(v.numel() for key, v in state.items() if key.startswith("tuned."))
    layers = got.trained_parts["layers"]
    require_equal(layers, stored - tuned, "parameters of layers")
    require_equal(got.total, case.model.parameter_count + layers, "all parameters")


@clause(
    means="A single task on texts alone is the simplest use of a language model.",
    remedy="Assume no visual block: model.module.visual may be None, and tasks may be 1.",
)
def serves_one_task_without_images(case: TextCase) -> None:
    """It trains one task on a model that sees nothing, if anything is left to train."""
    blind = tiny.model(case.family, seen=0)
    try:
        changes = case.method(tasks=1).plan(blind)
    except ConfigError as error:
        require(blind.name in str(error), f"the error does not name the model: {error}")
        return
    one, of = AdaptedTextModel(blind, changes).train(), case.batch((0, 0))
    inputs = Inputs(of.inputs.ids, of.inputs.mask)
    loss = GenerationLoss(one)(GenerationBatch(inputs, of.labels, of.weights, of.tasks))
    loss.backward()
    require(torch.isfinite(loss), "the loss is not finite")
    seen = [key for key in one.state_dict() if "visual" in key]
    require(not seen, f"{', '.join(seen)} are trained although nothing is seen")


@clause(
    means="Answers are written token by token over stored keys; another function than the one that was trained would "
    "write other answers.",
    remedy="Let layers in the decoder work on one new token as on all, and depend on no count of calls.",
)
def writes_what_it_scores_highest(case: TextCase) -> None:
    """Greedy search follows the whole pass's best tokens, and a row is written as it is alone."""
    frozen, one = case.model, case.trained()
    of, longest = case.batch((2, 0, 1)), 6
    with torch.no_grad(), one._at_work(of.tasks):
        encoded = frozen.encode(of.inputs)
        decoded = frozen.generate(encoded, longest=longest)
        several = frozen.generate(encoded, beams=3, longest=longest)
        labels = torch.tensor([row[1:] for row in decoded])
        best = frozen.logits(encoded, labels).argmax(dim=-1)
    for row, want in zip(labels.tolist(), best.tolist(), strict=True):
        end = row.index(2) + 1 if 2 in row else longest - 2  # the last may be forced to end
        last = min(end, longest - 2)
        require_equal(row[:last], want[:last], "tokens written and scored highest")
    for i, task in enumerate(of.tasks):
        with torch.no_grad(), one._at_work([task]):
            alone = frozen.encode(only(of.inputs, [i]))
            for rows, beams in ((decoded, 1), (several, 3)):
                got = _without_padding(frozen.generate(alone, beams=beams, longest=longest)[0])
                require_equal(got, _without_padding(rows[i]), f"row {i} alone by {beams} beams")


def _without_padding(row: list[int]) -> list[int]:
    return row[:1] + [token for token in row[1:] if token != tiny.Words.pad]


CLAUSES: tuple[Clause[TextCase], ...] = (
    moves_all_it_declares_and_nothing_else,
    is_whole_in_its_state,
    starts_where_it_says,
    scores_a_row_as_alone,
    shares_layers_as_asked,
    counts_as_the_ledger_says,
    serves_one_task_without_images,
    writes_what_it_scores_highest,
)
