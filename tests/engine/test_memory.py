"""The peak of a stretch of work, not of the process's past."""

import torch

from petiole.engine.memory import peak_memory

CPU = torch.device("cpu")


def used(megabytes: int) -> float:
    with peak_memory(CPU) as peak:
        block = torch.ones(megabytes * 2**18)
        del block
        return peak()


def test_it_rises_with_what_is_used_and_falls_again() -> None:
    small, large, again = used(1), used(300), used(1)
    assert 250 < large - small < 350
    assert large - again > 250
