"""Petiole: adapt frozen vision and vision-language models with few trained parameters.

    >>> import petiole
    >>> run = petiole.fit("photos/", source="renders/", method="cls-residual-lora", shots=10)
    >>> petiole.predict(run.folder, ["new.jpg"])

Names load on first use, so importing the package is quick.
"""

from __future__ import annotations

import logging
import re
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from petiole.errors import PetioleError
from petiole.version import __version__

# transformers and peft import torchao wherever it is installed, and torch finds two of its lines old.
_TORCHAO = re.compile(r"<enum '(KernelPreference|ScaleCalculationMode)'> is an Enum subclass")
logging.getLogger("torch.utils._pytree").addFilter(
    lambda record: not _TORCHAO.match(record.getMessage())
)

if TYPE_CHECKING:
    from petiole.allocator import tune_allocator
    from petiole.backbones.registry import load
    from petiole.commands.backbones import backbones
    from petiole.commands.cache import cache
    from petiole.commands.check import check
    from petiole.commands.compare import compare
    from petiole.commands.continual import continual
    from petiole.commands.demo import demo
    from petiole.commands.diff import diff
    from petiole.commands.doctor import doctor
    from petiole.commands.evaluate import evaluate
    from petiole.commands.export import export
    from petiole.commands.features import features
    from petiole.commands.few_shot import few_shot
    from petiole.commands.fit import fit
    from petiole.commands.fold import fold
    from petiole.commands.generalise import generalise
    from petiole.commands.import_dassl import import_dassl
    from petiole.commands.inspect import inspect
    from petiole.commands.label import label
    from petiole.commands.merge import merge
    from petiole.commands.multitask import multitask
    from petiole.commands.pair import pair
    from petiole.commands.params import params
    from petiole.commands.plan import plan
    from petiole.commands.predict import predict
    from petiole.commands.push_to_hub import push_to_hub
    from petiole.commands.report import report
    from petiole.commands.reproduce import reproduce
    from petiole.commands.serve import serve
    from petiole.commands.sign import sign
    from petiole.commands.simulate import simulate
    from petiole.commands.sweep import sweep
    from petiole.commands.synthesize import synthesize
    from petiole.commands.transfer import transfer
    from petiole.commands.verify import verify
    from petiole.engine.adapter import Adapter
    from petiole.ledger import ledger
    from petiole.serving.client import AsyncClient, Client
    from petiole.serving.onnx_pool import OnnxPool
    from petiole.serving.pool import AdapterPool
    from petiole.tasks.classification.module import adapt, load_adapter

__all__ = [
    "Adapter",
    "AdapterPool",
    "AsyncClient",
    "Client",
    "OnnxPool",
    "PetioleError",
    "__version__",
    "adapt",
    "backbones",
    "cache",
    "check",
    "compare",
    "continual",
    "demo",
    "diff",
    "doctor",
    "evaluate",
    "export",
    "features",
    "few_shot",
    "fit",
    "fold",
    "generalise",
    "import_dassl",
    "inspect",
    "label",
    "ledger",
    "load",
    "load_adapter",
    "merge",
    "multitask",
    "pair",
    "params",
    "plan",
    "predict",
    "push_to_hub",
    "report",
    "reproduce",
    "serve",
    "sign",
    "simulate",
    "sweep",
    "synthesize",
    "transfer",
    "tune_allocator",
    "verify",
]

_ELSEWHERE = {
    "load": "backbones.registry",
    "Adapter": "engine.adapter",
    "adapt": "tasks.classification.module",
    "load_adapter": "tasks.classification.module",
    "AdapterPool": "serving.pool",
    "AsyncClient": "serving.client",
    "Client": "serving.client",
    "OnnxPool": "serving.onnx_pool",
    "ledger": "ledger",
    "tune_allocator": "allocator",
}
"""Where the names are that are no verbs; those are found in ``commands``."""

_SUBMODULES = ("ledger", "report")
"""Verbs that bear the name of a submodule: there the submodule itself can be called."""


class _CallableModule(ModuleType):
    """``petiole.report`` is the package of that name and, when called, the verb."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _found(self.__name__.rpartition(".")[2])(*args, **options)


class _Package(ModuleType):
    """Makes those submodules callable when the import system binds them, whoever imports them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SUBMODULES and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _found(name: str) -> Any:
    home = _ELSEWHERE.get(name, f"commands.{name}")
    return getattr(import_module(f"petiole.{home}"), name)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'petiole' has no attribute {name!r}")
    if name in _SUBMODULES:
        return import_module(f"petiole.{name}")
    globals()[name] = _found(name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(__all__)
