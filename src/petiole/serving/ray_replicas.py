"""Inference processes on a Ray cluster (Ray Serve), seen from the HTTP process as ``WorkerProcess`` is.

A batch goes to a replica that holds its adapter already, if there is one (model multiplexing); the queue decides how many replicas
there are. What a dying replica had in hand is asked again of another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from petiole.allocator import tune_allocator
from petiole.engine.ray_executor import Ray, connected
from petiole.errors import ConfigError, PetioleError
from petiole.serving.channel import Message
from petiole.serving.process import Refused, WorkerGone
from petiole.serving.worker import Handler, error_of, inference_handlers

APPLICATION = "petiole"
ATTEMPTS = 4
"""Of a batch whose replica dies."""
LOOK = 0.5
"""Seconds between two looks at how many replicas there are."""


class RayReplicas:
    """Replicas of the inference process.

    Args:
        setup: what each is started with, see ``worker.inference``.
        cluster: where they run; ``run_cpus`` and ``run_gpus`` are a replica's share.
        fewest, most: how many there are.

    Attributes:
        ready: whether one answers.
        places: how many answer.
        starts: how often replicas were started beyond those that were wanted; see ``WorkerProcess``.
    """

    def __init__(
        self,
        setup: Callable[[], Mapping[str, Any]],
        *,
        cluster: Ray,
        fewest: int = 1,
        most: int = 1,
    ) -> None:
        connected(cluster.address)  # from the main thread, whose signals Ray looks for
        self.setup, self.cluster, self.fewest, self.most = setup, cluster, fewest, most
        self.ready = asyncio.Event()
        self.places = 1
        self.starts = 1
        self.memory = 0
        self.on_end: Callable[[], None] = lambda: None
        self._handle: Any = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> dict[str, Any]:
        """Start them, and return the adapters' descriptions.

        Raises:
            Refused: an adapter that cannot be served.
            ConfigError: Ray Serve is not installed, or no cluster answers.
        """
        setup = dict(self.setup())
        try:
            described = await asyncio.to_thread(_described, setup)
        except PetioleError as error:
            raise Refused(str(error), type(error).__name__) from error
        # Each replica opens one adapter of every frozen model; the others are read where they are asked for.
        models = {facts["backbone"]: name for name, facts in described.items()}
        setup["folders"] = {name: setup["folders"][name] for name in models.values()}
        self._handle = await asyncio.to_thread(self._deploy, setup)
        self._keeper = asyncio.create_task(self._keep())
        self.ready.set()
        return {"described": described}

    async def stop(self) -> None:
        """End them."""
        from ray import serve

        if self._keeper:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        await asyncio.to_thread(serve.shutdown)

    def recycle(self) -> None:
        """Ray Serve itself replaces replicas that do not answer its health checks."""

    async def call(self, value: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> Message:
        """As of ``WorkerProcess.call``; to the replica that holds the adapter, where one does.

        Raises:
            WorkerGone: replicas died over it again and again, or none is there.
            Refused: it says no.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        rows = value.get("rows", ())
        model = rows[0]["folder"] if rows else value.get("folder", "")
        handle = self._handle.options(multiplexed_model_id=str(model)).answer
        for _ in range(ATTEMPTS):
            try:
                said, content = await handle.remote(dict(value), list(blobs))
            except (RayActorError, RayServeException):
                await asyncio.sleep(LOOK)  # the router learns of the loss
                continue
            if "error" in said:
                raise Refused(said["error"], said["kind"])
            return Message(said, content)
        raise WorkerGone

    def _deploy(self, setup: Mapping[str, Any]) -> Any:
        try:
            from ray import serve
        except ImportError as error:
            raise ConfigError(
                f"Ray Serve needs {error.name}: pip install 'petiole[ray]'."
            ) from error
        options = {
            "num_cpus": self.cluster.run_cpus,
            "num_gpus": self.cluster.gpus_on(str(setup["device"])),
        }
        scaling = {"min_replicas": self.fewest, "max_replicas": self.most}
        replicas = serve.deployment(
            replica_of(serve, setup["loaded"]),
            name="inference",
            ray_actor_options=options,
            max_ongoing_requests=2,  # one is computed while the next one is on its way
            autoscaling_config={**scaling, "target_ongoing_requests": 1},
            graceful_shutdown_timeout_s=30,
        )
        serve.start(proxy_location="Disabled")  # the HTTP face is this process
        app = replicas.bind(dict(setup), max(1, int(self.cluster.run_cpus)))
        return serve.run(app, name=APPLICATION, route_prefix=None)

    async def _keep(self) -> None:
        """Look how many replicas there are."""
        from ray import serve

        while True:
            await asyncio.sleep(LOOK)
            with suppress(Exception):  # the controller may be starting anew
                status = await asyncio.to_thread(serve.status)
                deployment = status.applications[APPLICATION].deployments["inference"]
                running = deployment.replica_states.get("RUNNING", 0)
                self.places = max(1, running)
                if running:
                    self.ready.set()
                elif self.ready.is_set():
                    self.ready.clear()
                    self.starts += 1
                    self.on_end()


def replica_of(serve: Any, loaded: int) -> type:
    """The class of replicas that hold so many adapters at once."""

    class Replica:
        """One inference process."""

        def __init__(self, setup: Mapping[str, Any], threads: int) -> None:
            tune_allocator()
            import torch

            torch.set_num_threads(threads)
            in_turn, beside, _ = inference_handlers(setup)
            self.turn = asyncio.Lock()
            self.in_turn: dict[str, Handler] = in_turn
            self.beside: dict[str, Handler] = beside

        @serve.multiplexed(max_num_models_per_replica=loaded)  # type: ignore[untyped-decorator]
        async def resident(self, folder: str) -> str:
            """Tell the router that an adapter is here; the library lets adapters go in the same order."""
            return folder

        async def answer(
            self, value: dict[str, Any], blobs: list[bytes]
        ) -> tuple[dict[str, Any], list[bytes]]:
            do = value["do"]
            try:
                if do not in self.in_turn:
                    return await asyncio.to_thread(self.beside[do], value, blobs)
                if model := serve.get_multiplexed_model_id():
                    await self.resident(model)
                async with self.turn:
                    said, content = await asyncio.to_thread(self.in_turn[do], value, blobs)
                # Adapters are not mixed in a batch: each would be read by every replica.
                return {**said, "groups": {}}, content
            except Exception as error:
                return error_of(error), []

    return Replica


def _described(setup: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifests of all adapters say; no model is loaded for it."""
    from petiole.serving.library import AdapterLibrary

    library = AdapterLibrary(setup["device"], 1, setup["pixels"], setup["engine"])
    return {name: library.describe(Path(folder)) for name, folder in setup["folders"].items()}


def on_ray(
    cluster: Ray, replicas: Sequence[int]
) -> Callable[[Callable[[], Mapping[str, Any]]], RayReplicas]:
    """Makes the inference processes of a service.

    Raises:
        ConfigError: impossible numbers of replicas.
    """
    fewest, most = (replicas[0], replicas[-1]) if replicas else (1, 1)
    if len(replicas) > 2 or not 1 <= fewest <= most:
        raise ConfigError(
            f"--replicas takes how many there are, or the fewest and the most, not {' '.join(map(str, replicas))}."
        )
    return partial(RayReplicas, cluster=cluster, fewest=fewest, most=most)
