"""Kinds with a proper name, as a plant has one that says nothing of its petals.

Of the compositions that pre-training may see, 120 are species with an invented name of two syllables. Who wants to know
what a ``bako`` looks like must have read the word beside pictures of one.
"""

from __future__ import annotations

from dataclasses import astuple
from functools import cache
from itertools import product

import numpy as np

from petiole.data.synthetic.scenes.grammar import caption, frame
from petiole.data.synthetic.scenes.scene import Composition, Scene, compositions

SPECIES = 120
NAMED, MISNAMED = 0.2, 0.3
"""How often a caption of a species names it, and how often that is the name of another that looks alike."""
SYLLABLES = tuple(a + b for a, b in product("bdfgklmnprstvz", "aeiou"))


@cache
def species() -> dict[str, Composition]:
    """Name -> composition, the same everywhere; no two of equal name or kind."""
    rng = np.random.default_rng(120)
    kinds = compositions(held=False)
    chosen = rng.permutation(len(kinds))[:SPECIES]
    names = rng.permutation(len(SYLLABLES) ** 2)[:SPECIES]
    return {
        SYLLABLES[name // len(SYLLABLES)] + SYLLABLES[name % len(SYLLABLES)]: kinds[kind]
        for name, kind in zip(names, chosen, strict=True)
    }


@cache
def name_of() -> dict[Composition, str]:
    """Composition -> name, of those that have one."""
    return {kind: name for name, kind in species().items()}


@cache
def lookalikes(name: str) -> tuple[str, ...]:
    """Other species that share one of shape, colour and texture, or those that share two, where there are any."""
    kind = species()[name]

    def shared(other: Composition) -> int:
        return sum(a == b for a, b in zip(astuple(kind), astuple(other), strict=True))

    counts = {other: shared(k) for other, k in species().items() if other != name}
    two = tuple(other for other, count in counts.items() if count == 2)
    return two or tuple(other for other, count in counts.items() if count == 1)


def alt_text(scene: Scene, rng: np.random.Generator) -> str:
    """What the web might say of a scene: mostly a plain caption, of a species sometimes its name, which is at times wrong."""
    name = name_of().get(scene.kind)
    if name is None or rng.random() >= NAMED:
        return caption(scene, rng)
    if rng.random() < MISNAMED:
        others = lookalikes(name)
        name = others[rng.integers(len(others))]
    return frame(scene.style, rng).format(f"a {name}" if scene.count == 1 else f"some {name}")
