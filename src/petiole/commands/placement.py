"""Where a verb does its work: options that verbs of many runs share, and those that this machine or a cluster does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated  # noqa: F401 - ``group`` writes it, and Parameter, into annotations

from cyclopts import Parameter  # noqa: F401

from petiole.commands.options import group
from petiole.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from petiole.engine.executor import Executor
    from petiole.engine.ray_executor import Ray


@group("Where it is done")
@dataclass(frozen=True)
class ClusterOptions:
    """This machine or a cluster. The numbers do not depend on it.

    Attributes:
        executor: local, ray (a cluster of this machine, or that of RAY_ADDRESS) or ray://HOST:PORT; many runs also take a
            plug-in's name.
        run_cpus: cores of a run on Ray; by default 1.
        run_gpus: GPUs of a run on Ray, also a part of one such as 0.25; by default one, or none with --device cpu.
    """

    executor: str = "local"
    run_cpus: PositiveFloat | None = None
    run_gpus: NonNegativeFloat | None = None

    def make(self) -> Executor:
        """The executor.

        Raises:
            ConfigError: an unknown one, or an option that it does not take.
        """
        from petiole.engine.executor import executor

        name, _, address = self.executor.partition("://")
        given = {"address": address or None, **vars(self)}
        del given["executor"]
        return executor(name, **{key: value for key, value in given.items() if value is not None})

    def cluster(self) -> Ray | None:
        """The Ray cluster, or none for this process: of what other executors do not do.

        Raises:
            ConfigError: another executor.
        """
        from petiole.engine.executor import Local
        from petiole.engine.ray_executor import Ray
        from petiole.errors import ConfigError

        chosen = self.make()
        if isinstance(chosen, Ray):
            return chosen
        if chosen != Local():
            raise ConfigError(
                "This is done by one process here, or with --executor ray on a cluster; other executors are for verbs of many runs."
            )
        return None


@group("Where it is done")
@dataclass(frozen=True)
class ExecutorOptions(ClusterOptions):
    """Where many runs are done, and how many at a time.

    Attributes:
        processes: runs at a time on this machine, each on one core; by default 1.
    """

    processes: PositiveInt | None = None
