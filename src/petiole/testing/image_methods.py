"""What every method must do on every image backbone. A new method gets all of it by existing."""

from __future__ import annotations

import threading

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from petiole.backbones.frozen_network import IMAGES
from petiole.engine.adapter import TENSORS
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.lowrank import LowRank
from petiole.layers.residual import Residual
from petiole.layers.searchable import SearchableLayer
from petiole.layers.solved import SolvedHead
from petiole.methods.base import SOLVED
from petiole.methods.registry import create
from petiole.serving.pool import AdapterPool
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing.contract import Clause, clause, require, require_close, require_equal
from petiole.testing.host_reads import HostReads
from petiole.testing.image_case import (
    CLASSES,
    ImageCase,
    backward,
    cuts_below,
    descends,
    losses,
    require_same_tensors,
)
from petiole.testing.random_weights import images, seeded, shaken
from petiole.testing.untouched import untouched

UNUSED = {"embeddings.mask_token"}
"""Backbone parameters that a forward without masking never reads, so they cannot learn."""
ROUNDING = ("align.first.bias",)
"""A batch norm takes out the bias before it, so it moves by rounding errors or not at all."""


@clause(
    means="plan.identity states whether a fresh adapter leaves the bare backbone's vector as it is, bit by bit. What "
    "users read about the start of training, and the drift that is measured from it, would be wrong.",
    remedy="Initialise the last factor of every branch with zeros; or state identity=False in the Plan if the start is "
    "meant to be elsewhere (prompts, a random start).",
)
def starts_where_it_says(case: ImageCase) -> None:
    """Fresh branches give exactly 0, so the start is the bare vector, or its LayerNorm."""
    adapted = case.adapted().eval()
    plan = adapted.plan
    with torch.no_grad():
        bare = plan.pool(*(case.bare[role] for role in plan.reads))
        vector = adapted({IMAGES: case.images}).vector
        require(torch.isfinite(vector).all(), "the fresh vector is not finite")
        if not plan.identity:
            # A library that starts elsewhere or here says so in its own documentation.
            moved = plan.identity is None or not torch.allclose(vector, bare)
            require(moved, "the plan says identity=False, but the fresh vector is the bare one")
            return
        if isinstance(plan.refine, Residual):
            for branch in plan.refine.branches.children():
                require(
                    not branch(bare).any(), f"the fresh branch {type(branch).__name__} is not 0"
                )
            if not isinstance(plan.refine.norm, nn.Identity):
                bare = nn.functional.layer_norm(bare, bare.shape[-1:], eps=1e-6)
        require_equal(vector, bare, "the plan says identity=True, but fresh and bare vector")
        with adapted.attached():  # a head of class names runs a text tower
            require_equal(case.logits(adapted), plan.head(bare), "fresh logits and head(vector)")


@clause(
    means="In a low-rank pair W = B A with B = 0, only B can have a gradient at the first step. If it has none, nothing "
    "behind it ever learns; if A has one, B did not start at zero.",
    remedy="Check that the layer is really called in the forward pass, and that exactly one factor of each pair starts "
    "at zero.",
)
def learns_behind_what_starts_at_zero(case: ImageCase) -> None:
    """B and W_up learn from the first step, A and W_down from the second."""
    adapted = case.adapted()
    if not descends(adapted):
        return
    backward(case, adapted)
    for name, part in adapted.named_modules():
        if isinstance(part, LowRank):
            _learns(name, {"b": part.b}, {"a": part.a})
        if isinstance(part, Bottleneck):
            down = {f"down.{key}": p for key, p in part.down.named_parameters()}
            up = {f"up.{key}": p for key, p in part.up.named_parameters()}
            waits = not up["up.weight"].any()
            _learns(name, up if waits else up | down, down if waits else {})


def _learns(name: str, now: dict[str, nn.Parameter], later: dict[str, nn.Parameter]) -> None:
    """Raise Unmet unless the first have a gradient that is not 0, and the others one that is."""
    for key, parameter in (now | later).items():
        require(parameter.grad is not None, f"{name}.{key} has no gradient at the first step")
        assert parameter.grad is not None
        moves = bool(parameter.grad.any())
        require(
            moves == (key in now),
            f"{name}.{key} has a gradient {'other than' if moves else 'of'} 0 at the first step",
        )


@clause(
    means="A parameter that is declared but never moves costs memory and is counted without use; a backbone that moves "
    "is no longer the one whose features are cached and whose fingerprint the adapter file holds.",
    remedy="Attach every layer at a role that the forward pass reaches and return its output; write to no tensor of the "
    "backbone, register hooks through Attach only, and let tuned copies be named in Plan.tune.",
)
def moves_all_it_declares_and_nothing_else(case: ImageCase) -> None:
    """After a few steps everything trained has moved, and of the backbone no byte has."""
    with untouched(case.backbone):
        adapted, start = case.train(), case.adapted()
    layers = (part for part in adapted.modules() if isinstance(part, SearchableLayer))
    drawn = {id(p) for layer in layers for p in layer.parameters()}
    fresh = {**dict(start.named_parameters()), **dict(losses(start).named_parameters())}
    for name, value in [*adapted.named_parameters(), *losses(adapted).named_parameters()]:
        if id(value) in drawn:  # not every path had its turn
            continue
        unused = name.removeprefix("tuned.").replace("/", ".") in UNUSED
        moved = not torch.equal(value, fresh[name])
        require(
            moved != unused or name.endswith(ROUNDING),
            f"the parameter {name} {'moved' if moved else 'did not move'} in {case.method.recipe.steps} steps",
        )
        require(torch.isfinite(value).all(), f"the parameter {name} is not finite after training")
    if isinstance(adapted.head, SolvedHead):
        solved = adapted.head.solution_size and any(b.any() for b in adapted.head.buffers())
        require(solved, "the solved head holds no solution after training")


@clause(
    means="A loss without a gradient counts in the total and teaches nothing.",
    remedy="Detach only what is frozen, and compute that in begin(); no detach() or torch.no_grad() around what is trained.",
)
def has_losses_that_teach(case: ImageCase) -> None:
    """Every extra loss depends on something that is trained."""
    adapted = case.adapted()
    if not descends(adapted):
        return
    flat: list[str] = []

    def record(loss: nn.Module, _: object, value: Tensor) -> None:
        if not value.requires_grad:
            flat.append(type(loss).__name__)

    handles = [loss.register_forward_hook(record) for loss in losses(adapted)]
    backward(case, adapted)
    for handle in handles:
        handle.remove()
    require(not flat, f"{', '.join(flat)}: nothing trained takes part in it")


@clause(
    means="An adapter that is saved and opened again would answer otherwise than the one that was trained.",
    remedy="Keep all that prediction needs as parameters or persistent buffers of modules in the Plan, draw nothing at "
    "construction that the state does not hold, and share no tensor between a loss and what serves prediction. A module "
    "that several layers use belongs into Plan.shared, and none of them registers it.",
)
def survives_saving(case: ImageCase) -> None:
    """Saved and opened again on the same backbone, it gives the same bits."""
    adapted = case.saved.adapted
    stored = load_file(case.folder / TENSORS)
    again = ClassificationAdapter.load(case.folder, backbone=case.backbone)
    require_equal(case.logits(again.adapted), case.logits(adapted), "logits after opening")
    require_equal(again.classes, list(CLASSES), "class names after opening")
    require_equal(sorted(stored), sorted(adapted.state_dict()), "names of the stored tensors")
    dropped = {id(t) for t in losses(adapted).state_dict(keep_vars=True).values()}
    kept = {name for name, t in adapted.state_dict(keep_vars=True).items() if id(t) in dropped}
    require(not kept, f"a loss, which is dropped, and prediction share {', '.join(sorted(kept))}")


@clause(
    means="Training on stored features would give another model than training on images, so the cache, and every "
    "published time and score that rests on it, would be wrong.",
    remedy="State every role that the method touches in Attach.role, Attach.reads, Plan.tune, Plan.reads or "
    "Plan.studies: the cut is derived from them. Let layers depend on nothing but their input.",
)
def is_the_same_from_the_cache(case: ImageCase) -> None:
    """Every cut gives the same function, and training from stored values the same weights."""
    adapted = case.trained
    want = case.logits(adapted)
    for cut in cuts_below(case.backbone, adapted.cut):
        state = case.backbone.lower(case.images, cut)
        with torch.no_grad():
            require_close(adapted(state).logits, want, 1e-5, f"logits from the cut {cut}")
    # Not to the bit: convolutions round otherwise in batches of another size.
    require_same_tensors(adapted, case.train(stored=False), 1e-4)
    require_same_tensors(adapted, case.train(at=(IMAGES,), stored=False), 1e-4)


@clause(
    means="With --checkpoint activations are computed a second time in the backward pass; other gradients mean that the "
    "second time was another function.",
    remedy="Let layers keep no state from call to call, and draw random numbers from torch's generator only.",
)
def is_the_same_with_checkpointing(case: ImageCase) -> None:
    """Recomputed activations give the same gradients, adapters' and tuned copies' included."""
    kept, recomputed = case.adapted(), case.adapted(checkpoint=True)
    if not descends(kept):
        return
    for adapted in (kept, recomputed):
        backward(case, adapted)
    other = dict(recomputed.named_parameters())
    for name, parameter in kept.named_parameters():
        got, want = other[name].grad, parameter.grad
        require((got is None) == (want is None), f"{name} has a gradient in one of the two only")
        if got is not None and want is not None:
            require_close(got, want, 1e-6, f"gradients of {name}")


@clause(
    means="The ledger is what comparisons and tables print: numbers of parameters trained, served and stored.",
    remedy="Hand every module that the method owns to the Plan in the field of its purpose (attach, shared, pool, "
    "refine, head, losses); register constants as buffers, not as parameters.",
)
def counts_as_the_ledger_says(case: ImageCase) -> None:
    """The ledger's numbers are those of the file."""
    adapted, counted = case.trained, case.saved.manifest.ledger
    stored = load_file(case.folder / TENSORS)
    if isinstance(adapted.head, SolvedHead):  # labels and the chosen penalty are no weights
        stored = {k: v for k, v in stored.items() if v.is_floating_point() and v.ndim}
    size = sum(v.numel() for v in stored.values())
    require_equal(size, counted.inference + counted.fixed, "numbers in the file")
    require_equal(counted.inference, counted.adapters + counted.head, "inference parameters")
    dropped = sum(p.numel() for p in losses(adapted).parameters())
    require_equal(counted.training_only, dropped, "training-only parameters")
    require_equal(counted.trainable, counted.inference + dropped, "trainable parameters")
    frozen = sum(p.numel() for p in case.backbone.module.parameters())
    require_equal(counted.backbone, frozen, "frozen parameters")
    tuned = sum(p.numel() for p in adapted.tuned.values())
    require_equal(counted.total, counted.backbone + counted.trainable - tuned, "total parameters")
    require_equal(counted.cut, adapted.cut, "the cut")


@clause(
    means="A head that is solved takes no steps, and recipe_fields tells which fields of a recipe decide it. Without it, a "
    "rate or a number of steps that somebody states is taken and nothing uses it.",
    remedy="Set recipe_fields = SOLVED (petiole.methods.base) in the class of the method; leave it None where it is trained.",
)
def reads_the_recipe_that_it_says(case: ImageCase) -> None:
    """``recipe_fields`` is stated where the head is solved, and says no more than such a head reads."""
    read, head = case.method.recipe_fields, case.adapted().head
    if isinstance(head, SolvedHead):
        require(read is not None, "its head is solved, and recipe_fields is None")
        require_equal(sorted(read or ()), sorted(SOLVED), "recipe_fields")
    elif read is not None:
        trained = [name for name, _ in case.adapted().named_parameters()]
        require(not trained, f"recipe_fields is stated, and {len(trained)} tensors are trained")


@clause(
    means="One backbone serves many adapters and the bare model. A trace that is left behind changes the answers of all "
    "others.",
    remedy="Change values through Attach only; keep no reference into the backbone, and undo in the layer what it sets "
    "outside itself.",
)
def leaves_no_trace(case: ImageCase) -> None:
    """After training, use, nesting and an error, the bare backbone gives the same bits."""
    adapted = case.trained
    want = case.logits(adapted)
    with adapted.attached(), adapted.attached(), torch.no_grad():
        got = adapted({IMAGES: case.images}).logits
    require_equal(got, want, "logits inside a second attached()")
    try:
        with adapted.attached():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    require_equal(case.logits(adapted), want, "logits after an interrupted attached()")
    after = case.backbone.lower(case.images, case.backbone.finals)
    for role, value in case.bare.items():
        require_equal(after[role], value, f"{role} of the bare backbone before and after")


@clause(
    means="A server that answers with two adapters at once would mix up their answers.",
    remedy="Keep nothing in module globals or class attributes; what a forward pass needs goes through its arguments.",
)
def shares_its_backbone_between_threads(case: ImageCase) -> None:
    """Two adapters used at once on one backbone each give their own answer."""
    members = [(a, case.logits(a)) for a in (case.trained, case.train(1))]
    wrong: list[int] = []

    def work(index: int) -> None:
        adapted, want = members[index]
        for _ in range(4):
            if not torch.equal(case.logits(adapted), want):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    require(not wrong, "an adapter gave other logits while another thread used the backbone")


@clause(
    means="The pool answers rows of several adapters in one batch; each row must be what its adapter alone would say.",
    remedy="Let layers treat the rows of a batch one by one: no statistics over the batch in eval mode.",
)
def mixes_in_a_batch(case: ImageCase) -> None:
    """Among rows of other adapters, of other kinds and of none, every row is as it is alone."""
    backbone = case.backbone
    other_kind = create("adaptertune", {"rank": 3}) if backbone.depth else create("cosine-ln")
    with seeded(3):
        guest = AdaptedClassifier(backbone, other_kind.plan(backbone, 5))
        shaken(guest)
    members = {"one": case.trained, "two": case.train(1), "guest": guest}
    pool = AdapterPool(backbone)
    for name, adapted in members.items():
        pool.add(name, adapted)
    names = ("two", "guest", None, "one", "two", "one", "guest", "two")
    rows = images(backbone, len(names), seed=9)
    answers = pool.mixed(rows, names)
    require_equal([answer.adapter for answer in answers], list(names), "adapters of the rows")
    bare = backbone.lower(rows, (backbone.vector,))[backbone.vector]
    for i, (key, answer) in enumerate(zip(names, answers, strict=True)):
        if key is None:
            pairs = {"vector of a row without adapter": (answer.vector, bare[i])}
        else:
            with torch.no_grad():
                alone = members[key]({IMAGES: rows[i : i + 1]})
            pairs = {
                f"logits of a row of {key}": (answer.logits, alone.logits[0]),
                f"vector of a row of {key}": (answer.vector, alone.vector[0]),
            }
        for what, (got, want) in pairs.items():
            # Convolutions round otherwise in batches of another size, so the scale is the row's largest value.
            require_close(got, want, 1e-5, what, scale=float(want.abs().max()))


@clause(
    means="Something in a training step is read back before the step goes on: on a GPU the program waits there until all "
    "before it is done, and then the GPU waits for the program.",
    remedy="Compute with masks as factors (torch.where, masked_fill) instead of indexing with them; take sizes from shapes, "
    "and draw what is random on the host before the step.",
)
def trains_without_waiting_for_the_device(case: ImageCase) -> None:
    """Loss and gradients of a batch hold no operation whose result the host must know."""
    adapted = case.adapted()
    if (
        not descends(adapted) or adapted.plan.injected
    ):  # layers of another library are not ours to mend
        return
    backward(case, adapted)  # what is computed once (embeddings of frozen texts) is done now
    reads = HostReads()
    with reads:
        backward(case, adapted)
    require(not reads.found, f"{'; '.join(sorted(reads.found))}")


CLAUSES: tuple[Clause[ImageCase], ...] = (
    starts_where_it_says,
    learns_behind_what_starts_at_zero,
    has_losses_that_teach,
    moves_all_it_declares_and_nothing_else,
    survives_saving,
    is_the_same_from_the_cache,
    is_the_same_with_checkpointing,
    counts_as_the_ledger_says,
    reads_the_recipe_that_it_says,
    leaves_no_trace,
    shares_its_backbone_between_threads,
    mixes_in_a_batch,
    trains_without_waiting_for_the_device,
)
