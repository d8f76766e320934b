"""Operations after which a program waits for its device, found on any device.

A GPU works behind the program that feeds it. An operation whose result decides a shape or a branch (a mask as an
index, ``.item()``, ``if tensor``) makes the program wait until all before it is done, and the GPU idle until it is
told to go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from traceback import extract_stack
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

READS = frozenset(
    f"aten.{name}"
    for name in (
        "_local_scalar_dense", "bincount", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2",
        "unique_consecutive", "unique_dim",
    )
)  # fmt: skip
INDEXES = frozenset({"aten.index", "aten.index_put", "aten.index_put_"})
MASKS = (torch.bool, torch.uint8)


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the context, what would make the program wait for a GPU is counted.

    Attributes:
        found: operation and place -> times.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = str(func).rpartition(".")[0]
        if name in READS or (name in INDEXES and any(map(_is_mask, args[1]))):
            self.found[f"{name} in {_place()}"] += 1
        return func(*args, **(kwargs or {}))


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in MASKS


def _place() -> str:
    """The innermost line outside torch; a backward pass in a thread of its own has none."""
    own = [f for f in extract_stack()[:-2] if "/torch/" not in f.filename]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else "the backward pass"
