"""How many rows to send through a model at once, learned from what batches took."""

from __future__ import annotations

EXPLORE = 24
"""Every so many batches a neighbouring size is tried, where enough rows wait."""
MEMORY = 0.2
"""Weight of the newest measure."""
NOW = 0.5
"""Weight of the newest batch in how much slower the machine is than the means of all sizes say."""
MOST_SLOW = 10.0
"""Of one batch, up and down, so that one hiccup does not close the door."""
START = 0.05
"""Seconds a row before anything was measured."""


class BatchSize:
    """Seconds a row by size of batch, in powers of two, as running means.

    The size that was cheapest a row is taken; a size not tried yet counts as the next smaller one, so that larger batches
    are tried while they pay, and no longer. A batch that would take longer than its bound is not taken, however cheap: all of
    its rows wait for the last one.

    Args:
        most: rows.
        longest: seconds of a batch of more than one row.
    """

    def __init__(self, most: int, longest: float = float("inf")) -> None:
        self.longest = longest
        self.sizes = [2**i for i in range(most.bit_length())]
        self.cost: dict[int, float] = {}
        self._batches = 0
        self._slow = 1.0

    @property
    def best(self) -> int:
        """The size to take, if so many rows wait."""
        if not self.cost:
            return 1
        short = [s for s, cost in self.cost.items() if s == 1 or s * cost <= self.longest]
        best = min(short, key=self.cost.__getitem__, default=1)
        following = 2 * best
        untried = following in self.sizes and following not in self.cost
        return following if untried and self._fits(following) else best

    @property
    def seconds(self) -> float:
        """Expected of one row now, however long ago the best size was last measured."""
        return (self.cost.get(self.best) or self._cheapest) * self._slow

    def choose(self, waiting: int) -> int:
        """Rows to take of those that wait; now and then a neighbour of the best size."""
        self._batches += 1
        size = self.best
        if self._batches % EXPLORE == 0:
            size = size * 2 if self._batches % (2 * EXPLORE) == 0 else size // 2
        size = min(max(size, 1), self.sizes[-1])
        size = size if self._fits(size) else self.best
        return size if size <= waiting else _power(max(waiting, 1))

    def _fits(self, size: int) -> bool:
        """By the cheapest row, not by what this size took when it was last tried, for the machine may have been busy."""
        return size == 1 or size * self._cheapest <= self.longest

    @property
    def _cheapest(self) -> float:
        """The cheapest that was measured of a row."""
        return min(self.cost.values(), default=START)

    def learn(self, rows: int, seconds: float) -> None:
        """Take in what a batch took."""
        size = _power(rows)
        new, old = seconds / rows, self.cost.get(size)
        self.cost[size] = new if old is None else old + MEMORY * (new - old)
        if old:
            self._slow += NOW * (min(max(new / old, 1 / MOST_SLOW), MOST_SLOW) - self._slow)


def _power(rows: int) -> int:
    """The largest power of two that is not above a number of rows."""
    return 1 << (rows.bit_length() - 1)
