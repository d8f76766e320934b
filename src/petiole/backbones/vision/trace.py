"""One pass over a network's shape: which blocks it calls and when, and what lies at the sites of their roles."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import BLOCK_ROLES, IMAGES
from petiole.deferred import without_compiler
from petiole.errors import BackboneError, first_line

Run = Callable[[Any, Tensor], tuple[Tensor, Tensor]]
"""Module and images (B, 3, H, W) -> last features, tokens (B, N, d) or a map, and the image vector (B, d)."""
BATCH = 2
LIGHT = 2_000_000_000
"""Multiplications of an image, as parameters times patches of 16 x 16 pixels, up to which a pass with data on the CPU is cheaper than
the imports of one without: a ViT-Ti at 224 px has 1.1e9 and takes 0.2 s, a ViT-S at 518 px 23e9 and 5 s; sympy takes 0.6 s."""
ANY = "any block"
"""In the table, what each class of block may have."""
Side = Literal["in", "out"]


@dataclass(frozen=True)
class Place:
    """A site by the names of its modules; see ``Site``."""

    module: str
    side: Side
    width: int
    columns: slice | None = None
    rejoin: str = ""


@dataclass
class Trace:
    """What one pass tells.

    Attributes:
        blocks: names of the blocks, in order.
        places: role -> where it lies, in the order in which data passes them.
        missing: roles of the table's classes that no block has here.
        outputs: of the blocks, with tensors of ``BATCH`` rows whose values mean nothing.
        features: the last features, alike.
        vector: width of the image vector.
        cuttable: whether a block's input holds all that the pass knows of an image there.
        takes_tokens: whether another number of tokens may pass the blocks.
        class_token: whether the image vector is the first token of the features.
    """

    blocks: list[str]
    places: dict[str, Place]
    missing: tuple[str, ...]
    outputs: list[Any]
    features: Tensor
    vector: int
    cuttable: bool
    takes_tokens: bool
    class_token: bool
    _entered: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_map(self) -> bool:
        """Whether the features are a map, not tokens."""
        return self.features.ndim == 4

    def role_of(self, parameter: str) -> str:
        """The lowest role that changes when a parameter does: its block, or the block before the module that holds it."""
        owner = parameter
        while owner:
            owner = owner.rpartition(".")[0]
            if owner in self.blocks:
                return f"block.{self.blocks.index(owner)}.in"
        owner = parameter
        while (owner := owner.rpartition(".")[0]) not in self._entered:
            if not owner:
                return IMAGES
        entered = self._entered[owner]
        if not entered:
            return IMAGES
        if entered == len(self.blocks) and "final.tokens" in self.places:
            return "final.tokens"
        return f"block.{entered - 1}.in"


@cache
def table() -> dict[str, dict[str, list[str]]]:
    """Class of a block -> role -> where it may lie."""
    stated = tomllib.loads(Path(__file__).with_name("block_roles.toml").read_text(encoding="utf-8"))
    return {
        kind: {role: [at] if isinstance(at, str) else at for role, at in roles.items()}
        for kind, roles in stated.items()
    }


def kind_of(block: nn.Module) -> str:
    """The name of a block's class in the table: its file and itself."""
    cls = type(block)
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


def probe_of(module: nn.Module, size: tuple[int, int]) -> nn.Module:
    """The same module, for hooks of its own; no tensor of the original is copied.

    A light one on the CPU computes with the original's weights, any other without data, whose first operation imports sympy.

    Args:
        module: the network.
        size: of the images that will pass, (height, width).
    """
    parameters = list(module.parameters())
    work = sum(parameter.numel() for parameter in parameters) * size[0] * size[1] / 16**2
    light = work <= LIGHT and all(parameter.device.type == "cpu" for parameter in parameters)
    tensors = (*parameters, *module.buffers())
    memo: dict[int, Any] = {id(t): t if light else _empty(t) for t in tensors}
    return copy.deepcopy(module, memo).eval()


def _empty(tensor: Tensor) -> Tensor:
    """Its shape, as a parameter where it is one."""
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


@dataclass
class _Call:
    """A module's first call: when it began and ended, and what went in and out."""

    began: int
    value_in: Any
    ended: int = -1
    value_out: Any = None
    calls: int = 1

    @property
    def is_block(self) -> bool:
        """Whether it takes a tensor, once."""
        return self.calls == 1 and isinstance(self.value_in, Tensor)


@without_compiler()
def run_timm(module: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """The last features and timm's own image vector."""
    features: Tensor = module.forward_features(images)
    vector: Tensor = module.forward_head(features, pre_logits=True)
    return features, vector


def traced(name: str, module: nn.Module, run: Run, size: tuple[int, int]) -> Trace:
    """Run a network's shape once.

    Args:
        name: of the model, for messages.
        run: the library's own forward.
        size: of the images, (height, width).

    Raises:
        BackboneError: it does not take images of this size, or gives no features and no vector.
    """
    try:
        return _traced(module, run, size)
    except Exception as error:  # another library's forward can fail in any way
        raise BackboneError(
            f"{name} ({type(module).__name__}) does not take images of {size[0]} x {size[1]} px, or is no network that "
            f"maps images to features and a vector ({type(error).__name__}: {first_line(error)}). Leave image_size out, or choose "
            "another model of docs/backbones.md."
        ) from error


@torch.no_grad()
def _traced(module: nn.Module, run: Run, size: tuple[int, int]) -> Trace:
    shape = probe_of(module, size)
    calls = _record(shape)
    weight = next(shape.parameters())
    images = torch.zeros(BATCH, 3, *size, device=weight.device, dtype=weight.dtype)
    features, vector = run(shape, images)
    if not isinstance(features, Tensor) or not isinstance(vector, Tensor):
        raise ValueError("it ends in several sets of features, not in one")
    if vector.ndim != 2:
        raise ValueError(f"its vector is of shape {tuple(vector.shape)}")
    blocks = sorted(
        (
            name
            for name, part in shape.named_modules()
            if kind_of(part) in table() and name in calls and calls[name].is_block
        ),
        key=lambda name: calls[name].began,
    )
    starts = [calls[name].began for name in blocks]
    places = _places(shape, blocks, calls)
    ends = [name for name, call in calls.items() if call.value_out is features]
    if ends:  # the last one: the norm, also where it is an identity
        norm = max(ends, key=lambda name: calls[name].ended)
        if norm not in blocks:
            places["final.tokens"] = Place(norm, "out", int(features.shape[-1]))
    has = {role.split(".", 2)[2] for role in places if role.startswith("block.")}
    return Trace(
        blocks,
        places,
        tuple(role for role in BLOCK_ROLES if blocks and role not in has),
        [calls[name].value_out for name in blocks],
        features,
        vector.shape[1],
        cuttable=bool(blocks) and all(_whole(calls[name]) for name in blocks),
        takes_tokens=bool(blocks) and _takes_tokens(shape, run, images, blocks, calls),
        class_token=_is_first_token(vector, features),
        _entered={n: sum(s < c.began for s in starts) for n, c in calls.items()},
    )


def _is_first_token(vector: Tensor, features: Tensor) -> bool:
    """Whether the vector is a view of just that."""
    return bool(
        features.ndim == 3
        and vector._base is (features if features._base is None else features._base)
        and vector.storage_offset() == features.storage_offset()
        and vector.shape == features[:, 0].shape
        and vector.stride() == features[:, 0].stride()
    )


def _record(shape: nn.Module) -> dict[str, _Call]:
    """Hooks on every module; the table fills while it runs."""
    calls: dict[str, _Call] = {}
    clock = count()

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if name in calls:
                calls[name].calls += 1
            else:
                calls[name] = _Call(next(clock), args[0] if args else None)

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            calls[name].ended, calls[name].value_out = next(clock), out

        return hook

    for name, part in shape.named_modules():
        part.register_forward_pre_hook(before(name))
        part.register_forward_hook(after(name))
    return calls


def _places(shape: nn.Module, blocks: list[str], calls: dict[str, _Call]) -> dict[str, Place]:
    """Every role that the pass calls, in the order in which it does."""
    timed: list[tuple[int, str, Place]] = []
    for i, block in enumerate(blocks):
        own = table()[kind_of(shape.get_submodule(block))]
        roles = {"in": [" in"], **table()[ANY], **own, "out": [" out"]}
        for role, candidates in roles.items():
            for text in candidates:
                if (found := _place(block, text, calls)) is not None:
                    timed.append((found[0], f"block.{i}.{role}", found[1]))
                    break
    return {role: place for _, role, place in sorted(timed, key=lambda each: each[0])}


def _place(block: str, text: str, calls: dict[str, _Call]) -> tuple[int, Place] | None:
    """The place that a line of the table means, and when data passes it; nothing where the pass does not call it once."""
    text, _, rejoin = text.partition(" + ")
    path, side, *part = text.split(" ")
    name = f"{block}.{path}" if path else block
    call, past = calls.get(name), f"{block}.{rejoin}" if rejoin else ""
    if call is None or call.calls > 1 or (past and calls.get(past) is None):
        return None
    if past and calls[past].calls > 1:
        return None
    value, when = (call.value_in, call.began) if side == "in" else (call.value_out, call.ended)
    value = value[0] if isinstance(value, tuple) and side == "out" else value
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    width, columns = int(value.shape[-1]), None
    if part:
        k, n = map(int, part[0].split("/"))
        width //= n
        columns = slice(k * width, (k + 1) * width)
    return when, Place(name, "in" if side == "in" else "out", width, columns, past)


def _whole(call: _Call) -> bool:
    """Whether a block takes and gives one row an image."""
    outs = call.value_out if isinstance(call.value_out, (tuple, list)) else [call.value_out]
    tensors = [call.value_in, *(out for out in outs if isinstance(out, Tensor))]
    return all(len(value) == BATCH for value in tensors)


def _takes_tokens(
    shape: nn.Module,
    run: Run,
    images: Tensor,
    blocks: list[str],
    calls: Mapping[str, _Call],
) -> bool:
    """Try it: one more token before the first block, taken off behind the last."""
    ends = calls[blocks[0]].value_in, calls[blocks[-1]].value_out
    if not all(isinstance(end, Tensor) and end.ndim == 3 for end in ends):
        return False

    def more(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (torch.cat([args[0], args[0][:, :1]], dim=1), *args[1:])

    def fewer(_: nn.Module, __: Any, out: Any) -> Any:
        return out[:, :-1]

    handles = [
        shape.get_submodule(blocks[0]).register_forward_pre_hook(more),
        shape.get_submodule(blocks[-1]).register_forward_hook(fewer),
    ]
    try:
        run(shape, images)
    except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError, IndexError):
        return False
    finally:
        for handle in handles:
            handle.remove()
    return True
