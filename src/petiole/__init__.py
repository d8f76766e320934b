"""Petiole: adapt frozen vision and vision-language models with few trained parameters.

    >>> import petiole
    >>> run = petiole.fit("photos/", source="renders/", method="cls-residual-lora", shots=10)
    >>> petiole.predict(run.folder, ["new.jpg"])

Names load on first use, so importing the package is quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from petiole.errors import PetioleError
from petiole.version import __version__

if TYPE_CHECKING:
    from petiole.backbones.lvlm.loading import load_lvlm
    from petiole.backbones.registry import load
    from petiole.backbones.seq2seq.loading import load_language
    from petiole.engine.adapter import Adapter
    from petiole.engine.encoder_file import EncoderFile
    from petiole.engine.language_adapter import LanguageAdapter
    from petiole.ledger import ledger
    from petiole.serve.bank import Bank
    from petiole.verbs.ask import ask
    from petiole.verbs.cache import cache
    from petiole.verbs.compare import compare
    from petiole.verbs.demo import demo
    from petiole.verbs.doctor import doctor
    from petiole.verbs.evaluate import evaluate
    from petiole.verbs.features import features
    from petiole.verbs.fit import fit
    from petiole.verbs.fold import fold
    from petiole.verbs.generalise import generalise
    from petiole.verbs.inspect import inspect
    from petiole.verbs.merge import merge
    from petiole.verbs.multitask import multitask
    from petiole.verbs.params import params
    from petiole.verbs.predict import predict
    from petiole.verbs.report import report
    from petiole.verbs.reproduce import reproduce
    from petiole.verbs.sweep import sweep
    from petiole.verbs.transfer import transfer
    from petiole.verbs.world import world

_HOMES = {
    "load": "backbones.registry",
    "load_language": "backbones.seq2seq.loading",
    "load_lvlm": "backbones.lvlm.loading",
    "Adapter": "engine.adapter",
    "EncoderFile": "engine.encoder_file",
    "LanguageAdapter": "engine.language_adapter",
    "Bank": "serve.bank",
    "ledger": "ledger",
    **{
        verb: f"verbs.{verb}"
        for verb in (
            "ask",
            "cache",
            "compare",
            "demo",
            "doctor",
            "evaluate",
            "features",
            "fit",
            "fold",
            "generalise",
            "inspect",
            "merge",
            "multitask",
            "params",
            "predict",
            "report",
            "reproduce",
            "sweep",
            "transfer",
            "world",
        )
    },
}

__all__ = [
    "Adapter",
    "Bank",
    "EncoderFile",
    "LanguageAdapter",
    "PetioleError",
    "__version__",
    "ask",
    "cache",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "features",
    "fit",
    "fold",
    "generalise",
    "inspect",
    "ledger",
    "load",
    "load_language",
    "load_lvlm",
    "merge",
    "multitask",
    "params",
    "predict",
    "report",
    "reproduce",
    "sweep",
    "transfer",
    "world",
]


_SUBMODULES = ("ledger", "report")
"""Verbs that bear the name of a submodule: there the submodule itself can be called."""


class _CallableModule(ModuleType):
    """``petiole.report`` is the package of that name and, when called, the verb."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(f"petiole.{_HOMES[name]}"), name)(*args, **options)


class _Package(ModuleType):
    """Makes those submodules callable when the import system binds them, whoever imports them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SUBMODULES and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'petiole' has no attribute {name!r}")
    if name in _SUBMODULES:
        return import_module(f"petiole.{name}")
    value = getattr(import_module(f"petiole.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
