"""Evolutionary search over the paths of a trained supernet (Chavan et al., 2023, section 3.3).

Each round keeps the best so far as parents; half of the next candidates are parents of which each layer draws a new path with
some probability, half take each layer's path from one of two parents. Among candidates of equal score the smaller one wins,
which is ours, because few images have few scores. What is tried follows from the scores alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from petiole.errors import ConfigError
from petiole.layers.checks import positive
from petiole.layers.searchable import SearchableLayer

Paths = tuple[str, ...]
"""One for each layer."""
TRIES = 20
"""Draws for each candidate wanted, before a small space counts as exhausted."""


@dataclass(frozen=True)
class PathSearch:
    """A search over the paths of some layers.

    Attributes:
        layers: in the order of their paths.
        population: candidates of a round.
        rounds: how many.
        parents: the best so far, of which the next are made.
        mutation: probability with which a layer of a mutated candidate draws a new path.

    Raises:
        ConfigError: a number is out of range.
    """

    layers: tuple[SearchableLayer, ...]
    population: int = 50
    rounds: int = 20
    parents: int = 10
    mutation: float = 0.2

    def __post_init__(self) -> None:
        positive(population=self.population, rounds=self.rounds, parents=self.parents)
        if not 0 < self.mutation <= 1:
            raise ConfigError(f"mutation must lie in (0, 1], but is {self.mutation}.")

    def best(self, score: Callable[[Paths], float]) -> Paths:
        """The candidate of the highest score; ``score`` is asked once for each that is tried."""
        random, known = Random(0), dict[Paths, tuple[float, int]]()

        def drawn() -> Paths:
            return tuple(random.choice(layer.paths) for layer in self.layers)

        def mutated() -> Paths:
            return tuple(
                random.choice(layer.paths) if random.random() < self.mutation else path
                for layer, path in zip(self.layers, random.choice(parents), strict=True)
            )

        def crossed() -> Paths:
            pairs = zip(random.choice(parents), random.choice(parents), strict=True)
            return tuple(random.choice(pair) for pair in pairs)

        def unknown(make: Callable[[], Paths], count: int) -> list[Paths]:
            found = dict[Paths, None]()
            for _ in range(TRIES * count):
                if len(found) < count and (paths := make()) not in known:
                    found[paths] = None
            return list(found)

        candidates, parents = unknown(drawn, self.population), list[Paths]()
        for _ in range(self.rounds):
            known |= {paths: (score(paths), -self._size(paths)) for paths in candidates}
            parents = sorted(known, key=known.__getitem__, reverse=True)[: self.parents]
            half = self.population // 2
            made = unknown(mutated, self.population - half) + unknown(crossed, half)
            candidates = list(dict.fromkeys(made))  # one may be made in both ways
        return parents[0]

    def _size(self, paths: Paths) -> int:
        return sum(layer.size(path) for layer, path in zip(self.layers, paths, strict=True))
