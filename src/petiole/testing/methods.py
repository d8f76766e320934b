"""``check_method``: the contract of methods, for their authors and for this project's own tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.methods.registry import create, find
from petiole.testing import (
    backbones,
    codebook_lvlm,
    codebook_methods,
    encoder_decoder,
    image_methods,
    text_methods,
)
from petiole.testing.contract import ContractError, hold
from petiole.testing.image_case import ImageCase

FAMILIES: dict[str, tuple[str, ...]] = {
    "images": backbones.NAMES,
    "language": encoder_decoder.FAMILIES,
    "codebook": codebook_lvlm.FAMILIES,
}
"""What a method adapts -> names of the tiny models with random weights that ``check_method`` tries."""


def check_method(
    name: str,
    backbones: Iterable[str | Backbone] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Check that a registered method keeps the contract of methods; offline, in seconds.

    >>> from petiole.testing import check_method
    >>> check_method("adaptertune", ["vit"])
    ('vit',)

    Args:
        name: as the method is registered.
        backbones: names of tiny models (``FAMILIES``), or backbones of images of your own; by default every tiny model
            of the kind that the method adapts. A model that cannot carry the method must be refused with an error that
            names it; it counts as passed if some other model can.
        settings: of the method, where its defaults do not fit the tiny models.

    Returns:
        Names of the models that carry the method.

    Raises:
        ContractError: a clause breaks; the message says which, on which model, what it means and what to do.
        ConfigError: there is no such method, model or setting.
    """
    settings, adapts = dict(settings or {}), find(name).cls.adapts
    tried = tuple(backbones) if backbones is not None else FAMILIES[adapts]
    carried = []
    for one in tried:
        model = one if isinstance(one, str) else one.name
        if isinstance(one, str) and one not in FAMILIES[adapts]:
            raise ConfigError(
                f"There is no tiny model {one!r} that {name} could adapt. Use {', '.join(FAMILIES[adapts])}"
                f"{', or a backbone of your own' if adapts == 'images' else ''}."
            )
        with TemporaryDirectory(prefix="petiole-contract-") as folder:
            if _check(name, adapts, one, Path(folder), settings):
                carried.append(model)
    if not carried:
        raise ContractError(
            f"method {name!r}",
            "some backbone can carry it",
            f"plan() refuses {', '.join(str(one) for one in tried)}",
            "A method that no backbone of its kind can carry cannot be used or compared.",
            "Raise ConfigError only where a backbone lacks what the method needs, or pass one that has it.",
        )
    return tuple(carried)


def _check(
    name: str, adapts: str, one: str | Backbone, folder: Path, settings: Mapping[str, Any]
) -> bool:
    """Check one pair; whether the model carries the method."""
    subject = f"method {name!r} on {one if isinstance(one, str) else one.name!r}"
    if adapts == "language":
        text = text_methods.TextCase(name, one, settings)  # type: ignore[arg-type]
        hold(text_methods.CLAUSES, text, subject)
    elif adapts == "codebook":
        asked = codebook_methods.CodebookCase(name, one, folder, settings)  # type: ignore[arg-type]
        hold(codebook_methods.CLAUSES, asked, subject)
    else:
        backbone = backbones.build(one, folder / "model") if isinstance(one, str) else one
        if not carries(backbone, name, settings):
            return False
        case = ImageCase(name, backbone, folder / "adapter", settings)
        hold(image_methods.CLAUSES, case, subject)
    return True


def carries(backbone: Backbone, name: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether a backbone of images can carry a method.

    Raises:
        ContractError: it cannot, and the error does not say of which backbone it speaks.
    """
    try:
        create(name, settings).plan(backbone, 3)
    except ConfigError as error:
        if backbone.name in str(error):
            return False
        raise ContractError(
            f"method {name!r} on {backbone.name!r}",
            "a refusal names the backbone",
            f"plan() raised {error}",
            "Whoever meets the error must see which of their backbones lacks what.",
            f"Put backbone.name into the message, and say what to use instead, e.g. '{backbone.name} has none. Use a ViT'.",
        ) from error
    return True
