"""Checkpointing, mixed precision and torch.compile change cost and rounding, never the gradient."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from petiole.backbones.hooks import observed
from petiole.backbones.vision import transformer
from petiole.errors import ConfigError
from petiole.methods.registry import create
from petiole.tasks.classification import training
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny
from petiole.testing import image_case as contract

INSIDE = ("adaptertune", "adapter-plus", "lora-qkv", "dora", "full", "vpt-deep", "ssf", "peft:loha")


def gradients(
    pair: contract.ImageCase, adapted: AdaptedClassifier, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        contract.backward(pair, adapted)
    return {name: p.grad for name, p in adapted.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("method", INSIDE)
def test_recomputed_activations_give_the_same_gradients(
    method: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit-equal, dropout and drop-path masks included, with the non-reentrant kind."""
    used: list[bool] = []

    def spy(*args: object, use_reentrant: bool) -> object:
        used.append(use_reentrant)
        return recompute(*args, use_reentrant=use_reentrant)  # type: ignore[arg-type]

    monkeypatch.setattr(transformer, "recompute", spy)
    pair = contract.ImageCase(method, tiny.registers(), Path())
    kept = gradients(pair, pair.adapted(), dtype)
    again = gradients(pair, pair.adapted(checkpoint=True), dtype)
    assert used == [False] * tiny.DEPTH
    assert kept.keys() == again.keys()
    assert any(value.any() for value in kept.values())
    for name, value in kept.items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", INSIDE)
def test_narrower_gradients_point_where_those_of_fp32_do(method: str, dtype: torch.dtype) -> None:
    pair = contract.ImageCase(method, tiny.plain(), Path())
    exact, rough = (gradients(pair, pair.adapted(), narrow) for narrow in (None, dtype))
    a, b = (
        torch.cat([g[name].flatten().double() for name in exact if exact[name].any()])
        for g in (exact, rough)
    )
    assert all(value.dtype == torch.float32 for value in rough.values())
    assert torch.cosine_similarity(a, b, dim=0) > 0.999
    assert (a - b).norm() / a.norm() < 0.05


@pytest.mark.parametrize("blocks", ["last:1", "1"])
def test_no_graph_is_built_below_the_earliest_adapter(blocks: str) -> None:
    pair = contract.ImageCase("adaptertune", tiny.plain(), Path())
    first = {"last:1": 2, "1": 1}[blocks]
    with tiny.seeded():
        plan = create("adaptertune", {**contract.RECIPE, "blocks": blocks}).plan(pair.backbone, 3)
    adapted = AdaptedClassifier(pair.backbone, plan).train()
    roles = [f"block.{i}.out" for i in range(tiny.DEPTH)]
    with adapted.attached(), observed(pair.backbone, roles) as seen:
        adapted({"images": pair.images})  # from the images, below the cut too
        graph = [seen[role].requires_grad for role in roles]
    assert graph == [i >= first for i in range(tiny.DEPTH)]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile without generating code: the part that has to follow hooks, copies and swaps."""
    fast = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", fast)
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("traced")
def test_compiled_steps_follow_every_kind_of_adapter() -> None:
    """On one backbone, one after the other: code for one adapter never serves the next."""
    backbone = tiny.plain()
    for method in (*INSIDE[:-1], "peft:lora"):  # peft's LoHa branches on a random number
        pair = contract.ImageCase(method, backbone, Path())
        eager, compiled = pair.adapted(), pair.adapted()
        compiled.compiled = True
        want, got = gradients(pair, eager), gradients(pair, compiled)
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)
        compiled.train()
        with torch.no_grad():
            bare = backbone.lower(pair.images, backbone.finals)
        assert all(torch.equal(bare[role], value) for role, value in pair.bare.items())


def test_a_compiled_run_trains_to_the_same_weights() -> None:
    """With generated code, where this machine can make it."""
    try:
        training.check_compiler()
    except ConfigError as error:
        pytest.skip(str(error))
    pair = contract.ImageCase("adaptertune", tiny.plain(), Path())
    adapted = pair.adapted()
    adapted.compiled = True
    table = contract.Memory(adapted, stored=True)
    callbacks = training.Callbacks(quiet=True)
    training.train(
        adapted, contract.dataset(), table, pair.method.recipe, seed=0, callbacks=callbacks
    )
    contract.require_same_tensors(adapted, pair.trained, 1e-4)


def test_a_machine_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> object:
        raise RuntimeError("No working C++ compiler found in PATH\nand more")

    training.check_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError, match=r"\(No working C\+\+ compiler.*\)\. Leave out --compile"):
        training.check_compiler()
    training.check_compiler.cache_clear()


@pytest.mark.parametrize("error", [ImportError("x.so: file too short\nand more"), KeyError("mine")])
def test_a_damaged_compile_cache_is_named_and_no_other_error_is_touched(error: Exception) -> None:
    ours = isinstance(error, ImportError)
    words = r"failed \(x\.so: file too short\)\. Its cache may be damaged: delete /.*--compile"
    with (
        pytest.raises(ConfigError if ours else KeyError, match=words if ours else "mine"),
        training.compiling(),
    ):
        raise error
