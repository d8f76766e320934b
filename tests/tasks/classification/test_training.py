"""The fit loop: schedule, groups, loss, determinism, divergence, solved heads."""

import gc
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.backbones.vision.cnn import ConvNet
from petiole.data.dataset import Dataset
from petiole.engine import optimizer
from petiole.engine.feature_table import StoredTable
from petiole.errors import DataError, RunError
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.tasks.classification import learning_rates, training
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.testing import backbones as tiny


def fit(kit: SimpleNamespace, method: str, seed: int = 0, **settings: object) -> AdaptedClassifier:
    precision = settings.pop("precision", "fp32")
    log = settings.pop("log", None)
    chosen = create(method, {"steps": 25, "views": 0, "lr": 0.01, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = AdaptedClassifier(kit.backbone, chosen.plan(kit.backbone, len(kit.data.classes)))
        callbacks = training.Callbacks(quiet=True, **({"log": log} if log else {}))
        training.train(
            adapted,
            kit.data,
            kit.table,
            chosen.recipe,
            seed=seed,
            precision=precision,
            callbacks=callbacks,
        )
    return adapted


def same(a: AdaptedClassifier, b: AdaptedClassifier) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


@settings(max_examples=80, deadline=None)
@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0, 1),
    lr=st.floats(1e-6, 1),
)
def test_learning_rate_rises_linearly_and_falls_as_half_a_cosine(
    steps: int, warmup: float, lr: float
) -> None:
    recipe = Recipe(steps=steps, warmup=warmup, lr=lr)
    got = np.array([optimizer.learning_rate(step, recipe) for step in range(steps)])
    rise = round(warmup * steps)
    want = np.empty(steps)
    for t in range(steps):
        if t < rise:
            want[t] = lr * (t + 1) / rise
        else:
            want[t] = lr * math.cos(math.pi / 2 * (t - rise) / (steps - rise)) ** 2
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    assert got.max() <= lr * (1 + 1e-12)
    assert (got > 0).all(), "no step is wasted"


def test_a_step_leaves_nothing_for_the_garbage_collector(kit: SimpleNamespace) -> None:
    """Tensors that wait for it cut the heap into pieces, which grows with every step."""
    plan = create("cls-residual-lora").plan(kit.backbone, 4)
    loss_module = ClassificationLoss(AdaptedClassifier(kit.backbone, plan), 0.5, 0.0)
    state = {role: torch.randn(4, kit.backbone.width) for role in loss_module.adapted.training_cut}

    def step() -> int:
        loss = loss_module(state, torch.arange(4), torch.tensor([True, True, False, False]))
        torch.autograd.backward(loss)
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    step()
    gc.collect()
    gc.disable()
    try:
        assert step() == step() == step()
    finally:
        gc.enable()


def test_only_matrices_decay(kit: SimpleNamespace) -> None:
    plan = create("cls-residual-lora").plan(kit.backbone, 4)
    loss_module = ClassificationLoss(AdaptedClassifier(kit.backbone, plan), 0.5, 0.0)
    groups = optimizer.parameter_groups(loss_module, Recipe(weight_decay=0.3), {})
    grouped = [(p, g["weight_decay"]) for g in groups for p in g["params"]]
    assert len(grouped) == len(list(loss_module.parameters()))
    assert {p.ndim >= 2: decay for p, decay in grouped} == {True: 0.3, False: 0.0}
    scale = plan.head.log_scale
    assert next(decay for p, decay in grouped if p is scale) == 0.0


@pytest.mark.parametrize("decay_all", [False, True])
def test_rates_fall_with_depth_and_the_head_has_its_own(decay_all: bool) -> None:
    """decay^(L - l) for tuned copies of block l, l = -1 below the blocks, 1 above them."""
    backbone = tiny.plain()
    method = create(
        "full", {"layer_decay": 0.5, "head_lr": 10.0, "decay_all": decay_all, "weight_decay": 0.1}
    )
    loss_module = ClassificationLoss(
        AdaptedClassifier(backbone, method.plan(backbone, 3)), 0.5, 0.0
    )
    groups = optimizer.parameter_groups(
        loss_module, method.recipe, learning_rates.factors(loss_module.adapted, method.recipe)
    )
    factor = {id(p): g["factor"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    copies = loss_module.adapted.copies
    assert len(factor) == len(copies) + 2
    for name, copy in copies.items():
        block = int(name.split(".")[1]) if name.startswith("blocks.") else None
        power = {None: 0 if name.startswith("norm.") else tiny.DEPTH + 1}.get(
            block, tiny.DEPTH - (block or 0)
        )
        assert factor[id(copy)] == pytest.approx(0.5**power), name
        assert decay[id(copy)] == (0.1 if decay_all or copy.ndim >= 2 else 0.0), name
    assert {factor[id(p)] for p in loss_module.adapted.head.parameters()} == {10.0}


def test_training_lowers_the_loss_and_leaves_the_backbone_alone(kit: SimpleNamespace) -> None:
    before = kit.backbone.fingerprint
    losses: list[float] = []
    fit(kit, "cls-residual-lora", steps=80, log=lambda *seen: losses.append(seen[1]))
    assert len(losses) == 9, "steps 0, 10, ... and the last"
    assert losses[-1] < 0.5 * losses[0]
    del kit.backbone.__dict__["fingerprint"]
    assert kit.backbone.fingerprint == before
    assert not kit.backbone.module._forward_hooks


@pytest.mark.parametrize("method", ["linear-probe", "cls-residual-lora", "lora-cosine-contrastive"])
def test_a_run_is_a_pure_function_of_its_seed(kit: SimpleNamespace, method: str) -> None:
    state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    first, second, other = (fit(kit, method, seed, steps=8) for seed in (0, 0, 1))
    assert same(first, second)
    assert not same(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_ways_of_training_differ(kit: SimpleNamespace) -> None:
    heads = {
        mode: fit(kit, "linear-probe", train_on=mode).head.weight.detach()
        for mode in ("source", "target", "joint", "sequential")
    }
    names = list(heads)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not torch.allclose(heads[a], heads[b], atol=1e-4), (a, b)


def test_bf16_gives_a_close_loss_and_fp32_weights(kit: SimpleNamespace) -> None:
    logs: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for precision, losses in logs.items():
        adapted = fit(
            kit,
            "cls-residual-lora",
            precision=precision,
            adapter_dropout=0.0,
            log=lambda *seen, losses=losses: losses.append(seen[1]),
        )
        assert all(p.dtype == torch.float32 for p in adapted.parameters())
    assert logs["fp32"] != logs["bf16"]
    np.testing.assert_allclose(logs["bf16"], logs["fp32"], rtol=0.05, atol=0.02)


def test_divergence_says_what_to_do(kit: SimpleNamespace) -> None:
    kit.table._dense["final.pooled"][:] = float("inf")
    with pytest.raises(RunError, match=r"loss is nan at step 0.*[Ll]ower lr.*clip=1"):
        fit(kit, "linear-probe")


def test_clipping_bounds_the_first_step(kit: SimpleNamespace) -> None:
    # With AdamW a step's size hides the gradient's, but a clipped one changes later moments.
    assert not same(fit(kit, "linear-probe"), fit(kit, "linear-probe", clip=1e-3))


def test_no_steps_leave_the_method_as_initialised(kit: SimpleNamespace) -> None:
    torch.manual_seed(0)
    plan = create("linear-probe").plan(kit.backbone, 4)
    assert torch.equal(fit(kit, "linear-probe", steps=0).head.weight, plan.head.weight)


def test_imprint_starts_from_the_class_means_of_the_target(kit: SimpleNamespace) -> None:
    adapted = fit(kit, "cosine", start="class-means", lr=0.0, steps=1, weight_decay=0.0)
    x = kit.table._dense["final.pooled"].double()
    labels = torch.tensor(kit.data.labels.copy())
    target = torch.tensor([s.domain == "target" for s in kit.data.samples])
    for label in range(4):
        rows = x[(labels == label) & target]
        mean = (rows / rows.norm(dim=1, keepdim=True)).mean(0)
        torch.testing.assert_close(
            adapted.head.weight[label].detach().double(), mean, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(("train_on", "domain"), [("target", "target"), ("source", "source")])
def test_solved_heads_see_their_domain_alone(
    kit: SimpleNamespace, train_on: str, domain: str
) -> None:
    head = fit(kit, "knn", train_on=train_on).head
    chosen = [i for i, s in enumerate(kit.data.samples) if s.domain == domain]
    x = kit.table._dense["final.pooled"][chosen]
    torch.testing.assert_close(head.support, x / x.norm(dim=1, keepdim=True))
    assert head.labels.tolist() == [kit.data.samples[i].label for i in chosen]


def test_a_solved_head_without_its_domain_is_explained(
    tiny: Callable[..., ConvNet],
    dataset: Callable[..., Dataset],
    vectors: Callable[..., StoredTable],
) -> None:
    data = dataset(0, 5)
    kit = SimpleNamespace(backbone=tiny(), data=data, table=vectors(data))
    with pytest.raises(DataError, match="--source"):
        fit(kit, "ridge", train_on="source")


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_total_loss_is_the_stated_sum(kit: SimpleNamespace, weight: float) -> None:
    """L = w CE(target) + (1 - w) CE(source) + lambda L_con, in float64 with plain loops."""
    method = create(
        "cls-residual-lora",
        {"form": "c1", "contrastive_weight": 0.7, "temperature": 0.2, "target_weight": weight},
    )
    torch.manual_seed(0)
    adapted = AdaptedClassifier(kit.backbone, method.plan(kit.backbone, 4))
    for p in adapted.parameters():
        torch.nn.init.normal_(p, std=0.3)
    loss_module = ClassificationLoss(adapted, weight, 0.0).eval()
    rows = torch.tensor([0, 1, 13, 20, 40, 70, 71, 5])
    labels, is_target = (t[rows] for t in training.labels_of(kit.data))
    state = kit.table.fetch(rows, torch.zeros_like(rows))
    got = float(loss_module(state, labels, is_target).detach())

    p = {k: v.detach().double().numpy() for k, v in loss_module.named_parameters()}
    h = state["final.pooled"].double().numpy()
    adapted64 = adapted.double()
    vector = adapted64.refine(torch.from_numpy(h)).detach().numpy()
    weights = p["adapted.head.weight"]
    scale = float(np.clip(np.exp(p["adapted.head.log_scale"]), 1, 100))
    losses: dict[bool, list[float]] = {True: [], False: []}
    for v, y, t in zip(vector, labels.tolist(), is_target.tolist(), strict=True):
        z = [scale * (v @ w) / (np.linalg.norm(v) * np.linalg.norm(w)) for w in weights]
        losses[t].append(math.log(sum(map(math.exp, z))) - z[y])
    ce = weight * np.mean(losses[True]) + (1 - weight) * np.mean(losses[False])

    projector = loss_module.losses[0].projector.double()
    u = projector(torch.from_numpy(vector)).detach().numpy()
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    anchors = []
    for i in range(len(u)):
        others = [a for a in range(len(u)) if a != i]
        positives = [a for a in others if labels[a] == labels[i]]
        if positives:
            total = math.log(sum(math.exp(u[i] @ u[a] / 0.2) for a in others))
            anchors.append(-np.mean([u[i] @ u[a] / 0.2 - total for a in positives]))
    assert got == pytest.approx(ce + 0.7 * np.mean(anchors), rel=1e-5)


def test_another_accelerator_s_precision_is_not_inherited(kit: SimpleNamespace) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    accelerator = training.accelerate(kit.backbone.module)
    assert accelerator.mixed_precision == "no"
    assert accelerator.device.type == "cpu"
