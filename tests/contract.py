"""What every method must do on every backbone. A new method gets all of it by existing.

``check`` runs one method on one fresh backbone through all of it; ``tests/test_contract.py`` walks
over all pairs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import backbones_for_tests as tiny
from petiole.backbones.base import IMAGES, Backbone, State
from petiole.backbones.weights import fingerprint
from petiole.data.dataset import Dataset, Sample
from petiole.engine.adapter import TENSORS
from petiole.engine.feature_extractor import Table
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.lowrank import LowRank
from petiole.layers.residual import Residual
from petiole.layers.solved import SolvedHead
from petiole.methods.base import Method
from petiole.methods.registry import create, settings_of
from petiole.serving.pool import AdapterPool
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import ANCHOR, AdaptedClassifier, ClassificationLoss
from petiole.tasks.classification.training import Callbacks, labels_of, train

CLASSES = ("ash", "birch", "cedar")
STEPS = 4
RECIPE = {
    "steps": STEPS,
    "warmup": 0.0,
    "lr": 1e-2,
    "weight_decay": 0.0,  # so that what gets no gradient stays where it is
    "classes_per_batch": 3,
    "source_per_class": 2,
    "target_per_class": 2,
    "views": 0,
}

UNUSED = {"embeddings.mask_token"}
"""Backbone parameters that a forward without masking never reads, so they cannot learn."""
ROUNDING = ("align.first.bias",)
"""A batch norm takes out the bias before it, so it moves by rounding errors or not at all."""


def dataset(source: int = 3, target: int = 3) -> Dataset:
    """Three classes, both domains; the images are made by ``Memory``."""
    samples = [
        Sample(Path(f"{domain}-{label}-{i}.png"), label, f"{label}{domain}{i}", domain)  # type: ignore[arg-type]
        for label in range(len(CLASSES))
        for domain, n in (("source", source), ("target", target))
        for i in range(n)
    ]
    return Dataset("made up", CLASSES, tuple(samples))


class Memory(Table):
    """Images in memory, computed up to ``cut`` when asked (``stored``: once, in advance)."""

    def __init__(
        self,
        adapted: AdaptedClassifier,
        cut: tuple[str, ...] = (),
        *,
        stored: bool,
        count: int = 18,
    ) -> None:
        self.backbone, self.cut = adapted.backbone, cut or adapted.training_cut
        self.images = tiny.images(self.backbone, count, seed=5)
        self.stored = self.backbone.lower(self.images, self.cut) if stored else None
        anchors = adapted.plan.anchors
        bare = self.backbone.lower(self.images, anchors) if anchors else {}
        self.anchors = {ANCHOR + role: value for role, value in bare.items()}

    def fetch(self, rows: Tensor, views: Tensor) -> State:  # noqa: ARG002 - one view
        anchors = {role: value[rows] for role, value in self.anchors.items()}
        if self.stored is not None:
            return anchors | {role: value[rows] for role, value in self.stored.items()}
        return anchors | self.backbone.lower(self.images[rows], self.cut)


@dataclass
class Pair:
    """One method on one fresh backbone, with folders to write to."""

    name: str
    backbone: Backbone
    folder: Path

    @cached_property
    def method(self) -> Method:
        return create(self.name, RECIPE)

    @cached_property
    def images(self) -> Tensor:
        return tiny.images(self.backbone)

    def adapted(self, seed: int = 0, *, checkpoint: bool = False) -> AdaptedClassifier:
        """Freshly initialised."""
        with tiny.seeded(seed):
            plan = self.method.plan(self.backbone, len(CLASSES))
            adapted = AdaptedClassifier(self.backbone, plan, checkpoint=checkpoint)
        adapted.name(CLASSES)
        return adapted

    @cached_property
    def trained(self) -> AdaptedClassifier:
        """After a few steps on stored values."""
        return self.train()

    @cached_property
    def saved(self) -> ClassificationAdapter:
        """``trained``, written to ``folder``."""
        adapter = ClassificationAdapter.of(
            self.trained,
            method=self.name,
            settings=settings_of(self.method),
            classes=CLASSES,
            weights=None,
            image_size=None,
        )
        adapter.save(self.folder)
        return adapter

    def train(
        self, seed: int = 0, *, at: tuple[str, ...] = (), stored: bool = True
    ) -> AdaptedClassifier:
        """A new one after a few steps; ``at`` is the cut where the table lies, by default the plan's own."""
        adapted = self.adapted(seed)
        table = Memory(adapted, at, stored=stored)
        train(
            adapted,
            dataset(),
            table,
            self.method.recipe,
            seed=seed,
            callbacks=Callbacks(quiet=True),
        )
        return adapted

    def logits(self, adapted: AdaptedClassifier) -> Tensor:
        """In evaluation mode, of the pair's images."""
        adapted.eval()
        with torch.no_grad():
            logits: Tensor = adapted({IMAGES: self.images}).logits
        return logits

    @cached_property
    def bare(self) -> State:
        """Every final role of the backbone before anything was on it."""
        return self.backbone.lower(self.images, self.backbone.finals)


def starts_where_its_paper_says(pair: Pair) -> None:
    """Fresh branches give exactly 0, so the start is the bare vector, or its LayerNorm.

    A plan that says otherwise (prompts, a random start) must indeed start elsewhere.
    """
    adapted = pair.adapted().eval()
    bare = pair.bare
    plan = adapted.plan
    if not plan.identity:
        with torch.no_grad():
            vector = adapted({IMAGES: pair.images}).vector
            assert torch.isfinite(vector).all()
            # A library that starts elsewhere or here says so in its own documentation.
            assert plan.identity is None or not torch.allclose(
                vector, plan.pool(*(bare[role] for role in plan.reads))
            )
        return
    with torch.no_grad():
        vector = plan.pool(*(bare[role] for role in plan.reads))
        if isinstance(plan.refine, Residual):
            for branch in plan.refine.branches:
                assert torch.equal(branch(vector), torch.zeros_like(vector))
            if not isinstance(plan.refine.norm, nn.Identity):
                vector = nn.functional.layer_norm(vector, vector.shape[-1:], eps=1e-6)
        assert torch.equal(adapted({IMAGES: pair.images}).vector, vector)
        with adapted.attached():  # a head of class names runs a text tower
            assert torch.equal(pair.logits(adapted), plan.head(vector))


def first_gradients_are_zero_behind_what_starts_at_zero(pair: Pair) -> None:
    """B and W_up learn from the first step, A and W_down from the second (spec B6)."""
    adapted = pair.adapted()
    if not descends(adapted):
        return
    backward(pair, adapted)
    for part in adapted.modules():
        if isinstance(part, LowRank):
            assert part.a.grad is not None
            assert part.b.grad is not None
            assert not part.a.grad.any()
            assert part.b.grad.any()
        if isinstance(part, Bottleneck):
            assert part.down.weight.grad is not None
            assert part.down.bias.grad is not None
            assert part.up.weight.grad is not None
            assert part.up.bias.grad is not None
            waits = not part.up.weight.any()
            assert part.down.weight.grad.any() != waits
            assert part.down.bias.grad.any() != waits
            assert part.up.weight.grad.any()
            assert part.up.bias.grad.any()


def moves_all_it_declares_and_nothing_else(pair: Pair) -> None:
    """After a few steps everything trained has moved, and of the backbone no byte has."""
    module = pair.backbone.module
    before = fingerprint(module.state_dict())
    keys, identities = list(module.state_dict()), [id(p) for p in module.parameters()]
    hooks = hooks_of(module)
    adapted, start = pair.train(), pair.adapted()
    fresh = {**dict(start.named_parameters()), **dict(losses(start).named_parameters())}
    for name, value in [*adapted.named_parameters(), *losses(adapted).named_parameters()]:
        unused = name.removeprefix("tuned.").replace("/", ".") in UNUSED
        assert torch.equal(value, fresh[name]) == unused or name.endswith(ROUNDING), name
        assert torch.isfinite(value).all(), name
    if isinstance(adapted.head, SolvedHead):
        assert adapted.head.solution_size
        assert any(b.any() for b in adapted.head.buffers())
    assert fingerprint(module.state_dict()) == before
    assert list(module.state_dict()) == keys
    assert [id(p) for p in module.parameters()] == identities
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert hooks_of(module) == hooks
    assert not module.training


def survives_saving(pair: Pair) -> None:
    """Saved and opened again on the same backbone, it gives the same bits."""
    adapted = pair.saved.adapted
    want = pair.logits(adapted)
    stored = load_file(pair.folder / TENSORS)
    again = ClassificationAdapter.load(pair.folder, backbone=pair.backbone)
    assert torch.equal(pair.logits(again.adapted), want)
    assert again.classes == list(CLASSES)
    assert stored.keys() == adapted.state_dict().keys()
    dropped = {id(t) for t in losses(adapted).state_dict(keep_vars=True).values()}
    kept = {id(t) for t in adapted.state_dict(keep_vars=True).values()}
    assert not dropped & kept


def is_the_same_from_the_cache(pair: Pair) -> None:
    """Every cut gives the same function, and training from stored values the same weights."""
    adapted = pair.trained
    want = pair.logits(adapted)
    for cut in cuts_below(pair.backbone, adapted.cut):
        state = pair.backbone.lower(pair.images, cut)
        with torch.no_grad():
            close(adapted(state).logits, want, 1e-5)
    # Not to the bit: convolutions round otherwise in batches of another size.
    close_states(adapted, pair.train(stored=False), 1e-4)
    close_states(adapted, pair.train(at=(IMAGES,), stored=False), 1e-4)


def is_the_same_with_checkpointing(pair: Pair) -> None:
    """Recomputed activations give the same gradients, adapters' and tuned copies' included."""
    kept, recomputed = pair.adapted(), pair.adapted(checkpoint=True)
    if not descends(kept):
        return
    for adapted in (kept, recomputed):
        backward(pair, adapted)
    other = dict(recomputed.named_parameters())
    for name, parameter in kept.named_parameters():
        got = other[name].grad
        if parameter.grad is None:
            assert got is None
        else:
            assert got is not None
            close(got, parameter.grad, 1e-6)


def counts_as_the_ledger_says(pair: Pair) -> None:
    """The ledger's numbers are those of the file."""
    adapted, counted = pair.trained, pair.saved.manifest.ledger
    stored = load_file(pair.folder / TENSORS)
    if isinstance(adapted.head, SolvedHead):  # labels and the chosen penalty are no weights
        stored = {k: v for k, v in stored.items() if v.is_floating_point() and v.ndim}
    assert sum(v.numel() for v in stored.values()) == counted.inference + counted.fixed
    assert counted.inference == counted.adapters + counted.head
    assert counted.training_only == sum(p.numel() for p in losses(adapted).parameters())
    assert counted.trainable == counted.inference + counted.training_only
    assert counted.backbone == sum(p.numel() for p in pair.backbone.module.parameters())
    tuned = sum(p.numel() for p in adapted.tuned.values())
    assert counted.total == counted.backbone + counted.trainable - tuned
    assert counted.cut == adapted.cut


def leaves_no_trace(pair: Pair) -> None:
    """After training, use, nesting and an error, the bare backbone gives the same bits."""
    before = pair.bare
    adapted = pair.trained
    want = pair.logits(adapted)
    with adapted.attached(), adapted.attached(), torch.no_grad():
        assert torch.equal(adapted({IMAGES: pair.images}).logits, want)
    try:
        with adapted.attached():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert torch.equal(pair.logits(adapted), want)
    after = pair.backbone.lower(pair.images, pair.backbone.finals)
    assert all(torch.equal(after[role], before[role]) for role in before)


def shares_its_backbone_between_threads(pair: Pair) -> None:
    """Two adapters used at once on one backbone each give their own answer."""
    pairs = [(a, pair.logits(a)) for a in (pair.trained, pair.train(1))]
    wrong: list[int] = []

    def workspace(index: int) -> None:
        adapted, want = pairs[index]
        for _ in range(4):
            if not torch.equal(pair.logits(adapted), want):
                wrong.append(index)

    threads = [threading.Thread(target=workspace, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def mixes_in_a_batch(pair: Pair) -> None:
    """Among rows of other adapters, of other kinds and of none, every row is as it is alone.

    Convolutions round otherwise in batches of another size, so the scale is the largest of a row.
    """
    backbone = pair.backbone
    other_kind = create("adaptertune", {"rank": 3}) if backbone.depth else create("cosine-ln")
    with tiny.seeded(3):
        guest = AdaptedClassifier(backbone, other_kind.plan(backbone, 5))
        tiny.shaken(guest)
    members = {"one": pair.trained, "two": pair.train(1), "guest": guest}
    pool = AdapterPool(backbone)
    for name, adapted in members.items():
        pool.add(name, adapted)
    names = ("two", "guest", None, "one", "two", "one", "guest", "two")
    images = tiny.images(backbone, len(names), seed=9)
    answers = pool.mixed(images, names)
    assert [answer.adapter for answer in answers] == list(names)
    bare = backbone.lower(images, (backbone.vector,))[backbone.vector]
    for i, (name, answer) in enumerate(zip(names, answers, strict=True)):
        if name is None:
            close_rows(answer.vector, bare[i], 1e-5)
            continue
        with torch.no_grad():
            alone = members[name]({IMAGES: images[i : i + 1]})
        close_rows(answer.logits, alone.logits[0], 1e-5)
        close_rows(answer.vector, alone.vector[0], 1e-5)


def check(pair: Pair) -> None:
    """All of the contract; the traceback names the clause that broke."""
    for clause in CLAUSES:
        clause(pair)


CLAUSES: tuple[Callable[[Pair], None], ...] = (
    starts_where_its_paper_says,
    first_gradients_are_zero_behind_what_starts_at_zero,
    moves_all_it_declares_and_nothing_else,
    survives_saving,
    is_the_same_from_the_cache,
    is_the_same_with_checkpointing,
    counts_as_the_ledger_says,
    leaves_no_trace,
    shares_its_backbone_between_threads,
    mixes_in_a_batch,
)


def backward(pair: Pair, adapted: AdaptedClassifier) -> None:
    """Gradients of the whole loss on all images, dropout seeded."""
    labels, is_target = labels_of(dataset())
    state = Memory(adapted, stored=True).fetch(torch.arange(18), torch.zeros(18))
    recipe = pair.method.recipe
    loss_module = ClassificationLoss(adapted, recipe.target_weight, recipe.label_smoothing).train()
    with tiny.seeded(7), adapted.attached():
        loss_module(state, labels, is_target).backward()


def descends(adapted: AdaptedClassifier) -> bool:
    """Whether anything is trained by gradients."""
    return any(p.requires_grad for p in adapted.parameters())


def losses(adapted: AdaptedClassifier) -> nn.ModuleList:
    return nn.ModuleList(adapted.plan.losses)


def hooks_of(module: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]


def cuts_below(backbone: Backbone, highest: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every cut from the images up to ``highest``."""
    inside = [(cut,) for cut in (IMAGES, *backbone.cuts)]
    return inside[: inside.index(highest) + 1] if highest in inside else [*inside, highest]


def close(got: Tensor, want: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def close_rows(got: Tensor, want: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()))


def close_states(one: AdaptedClassifier, two: AdaptedClassifier, tolerance: float) -> None:
    other = two.state_dict()
    for name, value in one.state_dict().items():
        close(other[name], value, tolerance)
