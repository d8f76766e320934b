"""Families of timm's models: how a module of some class becomes a backbone.

A family is one file, here or in another distribution (entry points of the group ``petiole.timm_families``):

    @timm_family("VisionTransformer")
    def wrap(name: str, module: VisionTransformer, preprocessing: Preprocessing) -> Backbone: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from petiole.backbones.base import Backbone
from petiole.data.preprocessing import Preprocessing
from petiole.registry import Registry

Wrap = Callable[[str, Any, Preprocessing], Backbone]
"""Name, module without classifier, and preprocessing -> backbone; raises BackboneError for a module that has no place here."""


@dataclass(frozen=True)
class TimmFamily:
    """One way of turning modules into backbones.

    Attributes:
        wrap: does it.
        options: of ``timm.create_model``, which these modules are built with where another image size than their own is
            wanted; without any they take all sizes, or are built anew for one.
    """

    wrap: Wrap
    options: Mapping[str, Any]


FAMILIES = Registry[TimmFamily](
    "family of timm", "petiole.backbones", "timm_family", "petiole.timm_families"
)


def timm_family(class_name: str, **options: Any) -> Callable[[Wrap], Wrap]:
    """Register how modules of this class, and of classes derived from it, become backbones.

    Args:
        class_name: e.g. ``VisionTransformer``; of the classes that a module is of, the most special counts.
        options: of ``timm.create_model``.
    """

    def add(wrap: Wrap) -> Wrap:
        FAMILIES.add(class_name, TimmFamily(wrap, options), origin=wrap.__module__)
        return wrap

    return add


def family_of(module: nn.Module) -> TimmFamily:
    """The family of a module; any module at all belongs to that of ``Module``."""
    return next(
        family for cls in type(module).__mro__ if (family := FAMILIES.get(cls.__name__)) is not None
    )
