"""Tensors of a TorchScript archive or of a file of ``torch.save``, without running any of its code.

An archive is a zip file: ``data.pkl`` holds the module's attributes or the state dict, ``data/<key>`` the bytes of
each storage. The pickle is read by ``petiole.data.readers.pickles``, which answers the few names that tensors are built of.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petiole.data.readers.pickles import Fields, Unknown, load_plain
from petiole.errors import BackboneError, boundary

TYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Every tensor of a TorchScript module, by its name in the module.

    Raises:
        BackboneError: the file is missing, damaged, of another kind, or calls for code.
    """
    return dict(_tensors(_content(path, script=True), ""))


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict that ``torch.save`` wrote (.pth, .bin), by name.

    Raises:
        BackboneError: the file is missing, damaged, holds more than named tensors, or calls for code.
    """
    content = _content(path, script=False)
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise BackboneError(
            f"{path} holds more than a table of named tensors. Save the model's state_dict() alone."
        )
    return dict(content)


def read_training_state(path: Path) -> dict[str, Any]:
    """What a training program saved with ``torch.save``: a table with tensors, and whatever else it kept.

    Objects of optimisers, schedulers and the like are left out unseen: a dead stand-in takes their place.

    Raises:
        BackboneError: the file is missing, damaged, or holds no table.
    """
    content = _content(path, script=False, names=_names_or_dead)
    if not isinstance(content, dict):
        raise BackboneError(f"{path} holds no table, so it is no training program's checkpoint.")
    return dict(content)


Names = Callable[[str, str], Any]


def _content(path: Path, *, script: bool, names: Names | None = None) -> Any:
    """What an archive's pickle describes, out of stand-ins and tensors."""
    kind = "TorchScript archive" if script else "archive of torch.save"
    with (
        boundary(path, "Fetch it again.", BackboneError, what=f"is not a readable {kind}"),
        zipfile.ZipFile(path) as archive,
    ):
        found = {n.rpartition("/")[2]: n for n in archive.namelist() if n.endswith("/data.pkl")}
        pickled = found["data.pkl"]
        root = pickled.removesuffix("data.pkl")
        if script != any(n.startswith(f"{root}code/") for n in archive.namelist()):
            raise ValueError(f"it is no {kind}; save its weights as safetensors")

        @cache  # tied tensors refer to one storage
        def storage(key: tuple[Any, ...]) -> Tensor:
            kind, dtype, number, _, count = key
            if kind != "storage" or not str(number).isdigit():
                raise ValueError(f"it refers to {kind} {number}")
            content = bytearray(archive.read(f"{root}data/{number}"))
            return torch.frombuffer(content, dtype=dtype, count=count)

        with archive.open(pickled) as file:
            return load_plain(file, names or _names, storage)


class _Table(dict[str, Any]):
    """An ordered dict; what torch hangs onto it (versions of modules) is dropped."""

    def __setstate__(self, state: object) -> None:
        pass


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors by dotted name."""
    if not isinstance(module, Fields):
        return
    for name, value in module.fields.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _names(module: str, name: str) -> Any:
    """What stands for a name of the pickle."""
    if module == "__torch__" or module.startswith("__torch__."):
        return Fields
    if module == "torch" and name in TYPES:
        return TYPES[name]
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
        return _tensor
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
        return lambda tensor, *_: tensor
    if (module, name) == ("collections", "OrderedDict"):
        return _Table
    if module == "torch.jit._pickle" and name.startswith("build_"):
        return list
    if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
        return lambda value, _tag: value
    raise Unknown(module, name)


class _Dead:
    """Stands for an object that nobody asks for: takes anything and keeps nothing."""

    def __init__(self, *_: object) -> None: ...

    def __call__(self, *_: object) -> _Dead:
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...


def _names_or_dead(module: str, name: str) -> Any:
    try:
        return _names(module, name)
    except Unknown:
        return _Dead
