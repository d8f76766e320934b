"""torch's compiler, imported when something is compiled and not before.

Without this, a command with a timm backbone imports the whole compiler, with triton and sympy, for a fifth of the processor
time of ``petiole predict`` on one image, although nothing is compiled: ``torchvision.ops.roi_align`` takes a function from
``torch._dynamo.utils``, ``timm.models.naflexvit`` marks methods with ``torch.compiler.disable``, and so does torch itself with what
runs on a meta device. Figures: docs/benchmarks.md, "Start-up".

Within ``without_compiler`` stand-ins take the place of two of its modules. Afterwards they are gone, and what they gave out does
what the real functions do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LIBRARIES = ("timm", "torchvision")
COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"


class _StandIn(ModuleType):
    """One function of a module; whoever asks for anything else gets the module itself."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        super().__init__(name)
        setattr(self, function.__name__, function)

    def __getattr__(self, name: str) -> Any:
        if (
            name.startswith("__") and name != "__path__"
        ):  # inspect asks every module for its __file__
            raise AttributeError(name)
        _withdraw()
        return getattr(import_module(self.__name__), name)


class _Finder(MetaPathFinder):
    """Finds the libraries as always, and has them executed without the compiler."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in LIBRARIES:
            return None
        found = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self)
        spec = next(filter(None, found), None)
        if spec and spec.loader:
            run = partial(_execute, spec.loader.exec_module)
            spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec


def defer_compiler() -> None:
    """Let timm and torchvision leave torch's compiler out when they are imported in this process; the commands do so."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _execute(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    import_module("torch")
    with without_compiler():
        execute(module)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Do something that asks for torch's compiler and has no use for it; if it has, it gets it."""
    if COMPILER in sys.modules:  # imported already, or another context's stand-in
        yield
        return
    utils = _StandIn(UTILS, is_compile_supported)
    utils.__path__ = []  # asked of every module from which something is imported
    sys.modules |= {COMPILER: _StandIn(COMPILER, disable), UTILS: utils}
    try:
        yield
    finally:
        _withdraw()


def _withdraw() -> None:
    for name in (COMPILER, UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def is_compile_supported(device_type: str) -> bool:
    """See ``torch._dynamo.utils``."""
    return bool(import_module(UTILS).is_compile_supported(device_type))


def disable(function: Callable[..., Any], *rest: Any, **options: Any) -> Callable[..., Any]:
    """See ``torch._dynamo.disable``; until the compiler is imported nobody compiles, and the function is called as it is."""

    @cache
    def disabled(compiler: ModuleType) -> Callable[..., Any]:
        made: Callable[..., Any] = compiler.disable(function, *rest, **options)
        return made

    @wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        compiler = sys.modules.get(COMPILER)
        if compiler is None or isinstance(compiler, _StandIn):
            return function(*args, **kwargs)
        return disabled(compiler)(*args, **kwargs)

    vars(outside)["_torchdynamo_disable"] = True  # what the compiler looks for
    return outside
