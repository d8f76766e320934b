"""Any network of known blocks as a backbone: roles from a table by the block's class, everything else from one traced pass.

``block_roles.toml`` says where the roles lie in a block of some class. A pass over the shape, without weights, tells which
blocks there are and in which order, how wide each site is, and which of the table's sites the forward pass calls at all.
The network runs as its library wrote it. To stop at a cut, the pass ends at that block; to go on from one, the blocks
below answer with zeros of their shape and the block takes the stored value, so only what is not a block (a patch
embedding, rotary positions, a merging of patches) is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint as recompute

from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import IMAGES, Site
from petiole.backbones.vision.trace import Run, Trace
from petiole.backbones.vision.transformer import first_cut
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError

MOST_PREFIXED = 16
"""Most class tokens and registers that a network has."""


class BlockNetwork(Backbone):
    """A frozen network of blocks whose stream may change its width and its grid on the way.

    Final roles: ``final.cls`` (B, d) the first token, where it is the image vector; ``final.patches`` (B, N, c) the last
    local tokens; ``final.pooled`` (B, d) what the network itself pools, or the mean of the patches beside a class token.

    Args:
        run: the library's own forward.
        traced: what one pass of it tells.
        channels_last: whether the last axis of a map of features are its channels.

    Raises:
        BackboneError: its features are neither tokens nor a map.
    """

    patches = "final.patches"

    def __init__(
        self,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing,
        run: Run,
        traced: Trace,
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__(name, module, preprocessing, traced.vector)
        self.run, self.traced = run, traced
        self._channels = -1 if channels_last or traced.features.ndim == 3 else 1
        self._grid, self._prefix = self._local()
        self.vector = "final.cls" if traced.class_token else "final.pooled"

    @cached_property
    def _blocks(self) -> tuple[nn.Module, ...]:
        return tuple(self.module.get_submodule(name) for name in self.traced.blocks)

    @property
    def depth(self) -> int:
        """Number of blocks with roles."""
        return len(self.traced.blocks)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last local tokens."""
        return self._grid

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches at the end; inside the blocks too, where these keep the number of tokens."""
        return self._prefix

    @property
    def takes_tokens(self) -> bool:
        """Whether more tokens than the image's may pass the blocks."""
        return self.traced.takes_tokens

    def width_of(self, role: str) -> int:
        return (
            self.width if role == self.vector else int(self.traced.features.shape[self._channels])
        )

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        at = self.module.get_submodule
        return {
            role: Site(
                at(place.module),
                place.side,
                place.width,
                place.columns,
                at(place.rejoin) if place.rejoin else None,
            )
            for role, place in self.traced.places.items()
        }

    @property
    def finals(self) -> tuple[str, ...]:
        own = ("final.cls",) if self.traced.class_token else ()
        return (*own, "final.patches", "final.pooled")

    @property
    def cuts(self) -> tuple[str, ...]:
        if not self.traced.cuttable:
            return ()
        return tuple(f"block.{i}.in" for i in range(first_cut(self.depth), self.depth))

    def role_of(self, parameter: str) -> str:
        return self.traced.role_of(parameter)

    def _lower(self, images: Tensor, cut: str) -> Tensor:
        with _stopping(self._blocks[_number(cut)]) as seen:
            self.run(self.module, images)
        return self._kept(images, seen[0])

    def _upper(self, cut: str, value: Tensor, reads: Sequence[str], *, checkpoint: bool) -> State:
        start, images = 0, value
        with ExitStack() as undo:
            if cut != IMAGES:
                start, (images, stream) = _number(cut), self._resumed(value)
                undo.enter_context(self._going_on(start, stream))
            if checkpoint and torch.is_grad_enabled():
                for block in self._blocks[start:]:
                    undo.enter_context(_answering(block, _recomputed(block.forward)))
            features, vector = self.run(self.module, images)
        tokens = self._tokens(images, features)
        values = {
            "final.cls": vector,
            "final.patches": tokens,
            "final.pooled": tokens.mean(dim=1) if self.traced.class_token else vector,
        }
        return {role: values[role] for role in reads}

    def _kept(self, images: Tensor, stream: Tensor) -> Tensor:  # noqa: ARG002 - its shape says all
        """What is stored at a cut: a block's input, and whatever else of the images the rest needs."""
        return stream

    def _resumed(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Images without content to run what is no block, and the block's input, from what is stored at a cut."""
        blank = next(self.module.parameters()).dtype
        return value.new_zeros((len(value), 3, *self.preprocessing.size), dtype=blank), value

    def _tokens(self, images: Tensor, features: Tensor) -> Tensor:  # noqa: ARG002 - all images have one grid
        if features.ndim == 3:
            return features[:, self._prefix :]
        return features.movedim(self._channels, -1).flatten(1, 2)

    def _local(self) -> tuple[tuple[int, int], int]:
        """Rows and columns of the last local tokens, and how many others stand before them."""
        features = self.traced.features
        if features.ndim == 4:
            _, rows, columns, _ = features.movedim(self._channels, -1).shape
            return (rows, columns), 0
        if features.ndim != 3:
            raise BackboneError(
                f"{self.name} ({type(self.module).__name__}) ends in features of shape {tuple(features.shape)}, which are "
                "neither tokens nor a map. Choose another model of docs/backbones.md."
            )
        count = features.shape[1]
        stated = (getattr(self.module, part, None) for part in ("patch_embed", "config"))
        patch = next((p for part in stated if (p := getattr(part, "patch_size", None))), 0)
        sides = patch if isinstance(patch, (tuple, list)) else (patch, patch)
        if all(sides):
            rows, columns = (n // p for n, p in zip(self.preprocessing.size, sides, strict=True))
            if 0 <= count - rows * columns <= MOST_PREFIXED:
                return (rows, columns), count - rows * columns
        side = isqrt(count)
        return (side, side), count - side * side

    @contextmanager
    def _going_on(self, start: int, value: Tensor) -> Iterator[None]:
        """Let the blocks below ``start`` answer with zeros, and that block take ``value``."""

        def take(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (value, *args[1:])

        with ExitStack() as undo:
            for block, shape in zip(self._blocks[:start], self.traced.outputs, strict=False):
                undo.enter_context(_answering(block, _zeros(shape, value)))
            # Before what an adapter does to this block's input.
            undo.callback(self._blocks[start].register_forward_pre_hook(take, prepend=True).remove)
            yield


class _Stopped(Exception):
    """The pass has come to where it shall end."""


@contextmanager
def _stopping(block: nn.Module) -> Iterator[list[Tensor]]:
    """End the pass inside the context at a block; gives the list that then holds its input."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        raise _Stopped

    handle = block.register_forward_pre_hook(stop, prepend=True)
    try:
        yield seen
    except _Stopped:
        pass
    finally:
        handle.remove()


@contextmanager
def _answering(block: nn.Module, answer: Callable[..., Any]) -> Iterator[None]:
    """Let ``answer`` stand for the block's forward; its hooks stay at work."""
    before = block.__dict__.get("forward")
    block.__dict__["forward"] = answer
    try:
        yield
    finally:
        if before is None:
            del block.__dict__["forward"]
        else:
            block.__dict__["forward"] = before


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return recompute(forward, *args, use_reentrant=False, **kwargs)

    return run


def _zeros(shape: Any, value: Tensor) -> Callable[..., Any]:
    """What answers with zeros of a traced output's shapes."""

    def blank(part: Any) -> Any:
        return value.new_zeros(len(value), *part.shape[1:]) if isinstance(part, Tensor) else part

    return lambda *_, **__: tree_map(blank, shape)


def _number(cut: str) -> int:
    """The number in ``block.<i>.in``."""
    return int(cut.split(".")[1])
