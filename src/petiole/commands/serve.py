"""``petiole serve``: adapters behind an HTTP interface, and the page to try, teach and look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le
from cyclopts import Parameter

from petiole.commands.options import default_cache, group, name_of
from petiole.commands.placement import ClusterOptions
from petiole.commands.verb import verb
from petiole.errors import ConfigError
from petiole.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from petiole.serving.exports import Engine
    from petiole.serving.limits import Limits
    from petiole.serving.service import Service
    from petiole.serving.teach.routes import Lessons

LOOPBACK = ("127.0.0.1", "localhost", "::1")
Port = Annotated[int, Ge(0), Le(65535)]
Listed = Annotated[Sequence[str], Parameter(negative=(), consume_multiple=True)]


@group("Page")
@dataclass(frozen=True)
class PageOptions:
    """Tabs of the page.

    Attributes:
        teach: folder of images to label on the page, without labels; with the first --backbone, by default the best
            packaged one.
        teach_out: folder of the labels, a log that only grows; by default runs/FOLDER-teach.
        runs: folder of runs that the page lists, finished ones and those under way.
        show_training: show the training images that look most alike, where an adapter lies in its run folder and they are
            still there; whoever may ask can see them.
    """

    teach: Path | None = None
    teach_out: Path | None = None
    runs: Path | None = None
    show_training: bool = False

    def lessons(self, backbones: Sequence[str], device: str) -> Lessons | None:
        """What teaches, by the first of the frozen models; none without a folder of images."""
        if not self.teach:
            return None
        from petiole.serving.teach.routes import Lessons

        name = name_of(self.teach)
        return Lessons(
            {
                "images": str(self.teach),
                "name": name,
                "state": str(self.teach_out or Path("runs") / f"{name}-teach"),
                "backbone": backbones[0],
                "device": device,
                "cache": str(default_cache()),
                "skip_bad": True,
            }
        )


@group("Port and access")
@dataclass(frozen=True)
class AccessOptions:
    """Where the server listens, and to whom.

    Attributes:
        port: to listen on; 0 for any free one.
        host: address to listen on; by default this machine alone can ask. With another one, give --api-keys.
        api_keys: file with a name and the SHA-256 of a key a line; without it everybody who reaches the port may ask.
        trusted: public key (PEM or OpenSSH, Ed25519) of who must have signed the adapters; uploads are then refused, and torch
            answers. See petiole sign.
        origins: sites whose pages may ask, e.g. https://shop.example; by default none.
    """

    port: Port = 8000
    host: str = "127.0.0.1"
    api_keys: Path | None = None
    trusted: Path | None = None
    origins: Listed = ()


@group("Upper bounds")
@dataclass(frozen=True)
class BoundOptions:
    """What the server takes on; it refuses what lies beyond.

    Attributes:
        max_wait: seconds that a request may be expected to wait; beyond, it is refused with 429 and Retry-After.
        max_seconds: for a request to arrive, and to be answered.
        max_body_mb: of a request, uploaded adapters among them.
        max_images: of a request.
        max_pixels: of an image.
        max_batch: rows of one forward; how many are taken is measured.
        max_loaded: adapters in memory; those used least lately are let go and read again when they are asked for.
        max_adapters: known; an upload beyond lets the upload that was used least lately go.
        max_memory_mb: of the inference process, which is then started anew; 0 for no bound.
    """

    max_wait: PositiveFloat = 2.0
    max_seconds: PositiveFloat = 30.0
    max_body_mb: PositiveFloat = 32.0
    max_images: PositiveInt = 64
    max_pixels: PositiveInt = 50_000_000
    max_batch: PositiveInt = 32
    max_loaded: PositiveInt = 64
    max_adapters: PositiveInt = 1024
    max_memory_mb: NonNegativeFloat = 0.0

    def limits(self) -> Limits:
        """As the server takes them."""
        from petiole.serving.limits import Limits

        return Limits(
            wait=self.max_wait,
            seconds=self.max_seconds,
            body=int(self.max_body_mb * 2**20),
            images=self.max_images,
            pixels=self.max_pixels,
            batch=self.max_batch,
            loaded=self.max_loaded,
            adapters=self.max_adapters,
            memory=int(self.max_memory_mb * 2**20),
        )


@verb
def serve(
    adapters: Annotated[Sequence[Path], Parameter(negative=(), consume_multiple=True)] = (),
    *,
    backbones: Annotated[
        Sequence[str], Parameter(name="--backbone", negative=(), consume_multiple=True)
    ] = (),
    device: str = "auto",
    engine: Literal["auto", "torch", "onnx"] = "auto",
    canary: Listed = (),
    replicas: Annotated[Sequence[PositiveInt], Parameter(negative=(), consume_multiple=True)] = (),
    page: PageOptions | None = None,
    access: AccessOptions | None = None,
    bounds: BoundOptions | None = None,
    placement: ClusterOptions | None = None,
) -> None:
    """Serve adapters until Ctrl-C or SIGTERM; what was begun is answered first.

    POST /v1/predict, /v1/embed and /v1/ask answer; GET, PUT and DELETE /v1/adapters/NAME change what is served, without a
    break; /healthz, /readyz and /metrics are for machines; /openapi.json says all.

    Args:
        adapters: adapter or run folders; or one folder of such folders, the pool, which also keeps what is uploaded.
        backbones: frozen models that uploaded adapters may be for, beside those of ADAPTERS.
        device: auto, cpu, cuda, ...
        engine: torch; onnx: ONNX Runtime, for adapters that petiole export can write so; auto: on the CPU, ONNX Runtime once an
            adapter is exported, which happens beside the first requests, and torch for the others. On Ray always torch.
        canary: NAME=OTHER:0.1 lets the adapter OTHER answer a tenth of the requests for NAME; the answer and the metrics say which one did.
        replicas: inference processes on Ray, or the fewest and the most of them, as the queue asks for; by default 1.

    Raises:
        ConfigError: no adapters, two of one name, or a library of the extra serve is missing.
        AdapterError: an adapter that cannot be served, or is not signed by the owner of ``trusted``.
    """
    cluster = (placement or ClusterOptions()).cluster()
    if cluster is None and replicas:
        raise ConfigError("--replicas are inference processes on Ray: add --executor ray.")
    page, access, bounds = (
        page or PageOptions(),
        access or AccessOptions(),
        bounds or BoundOptions(),
    )
    if cluster and (bounds.max_memory_mb or engine == "onnx"):
        raise ConfigError(
            "On Ray adapters are answered by torch, in processes that Ray itself watches: leave --engine onnx and --max-memory-mb out."
        )
    limits = bounds.limits()
    try:
        from petiole.serving.app import create_app
        from petiole.serving.keys import ApiKeys
        from petiole.serving.pages import page_router
        from petiole.serving.ray_replicas import on_ray
        from petiole.serving.service import Service, canaries_of
        from petiole.serving.teach.routes import teach_router
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"petiole serve needs {error.name}: pip install 'petiole[serve]'."
        ) from error

    if page.teach and not backbones:
        from petiole.commands.defaults import backbone_for

        backbones = [backbone_for(["averaged-ridge"])]
    folders, store = named(list(map(Path, adapters)), bool(backbones) or page.runs is not None)
    service = Service(
        folders,
        backbones=backbones,
        store=store,
        device=device,
        engine="torch" if cluster else _engine(engine, access.trusted),
        trusted=Path(access.trusted) if access.trusted else None,
        cache=default_cache(),
        limits=limits,
        processes=on_ray(cluster, replicas) if cluster else None,
        canaries=canaries_of(canary, folders),
    )
    lessons = page.lessons(backbones, device)
    pages = page_router(
        service,
        runs=Path(page.runs) if page.runs else None,
        teaches=lessons is not None,
        training=page.show_training,
    )
    app = create_app(
        service,
        keys=ApiKeys(Path(access.api_keys)) if access.api_keys else None,
        origins=access.origins,
        hosts=LOOPBACK if access.host in LOOPBACK else (),
        routers=[pages, *([teach_router(service, lessons)] if lessons else [])],
    )
    _run(service, lessons, app, access.host, access.port)


def _engine(engine: Engine, trusted: Path | None) -> Engine:
    """Torch alone where adapters must be signed: a graph that lies beside one is not.

    Raises:
        ConfigError: ONNX Runtime was asked for all the same.
    """
    if trusted and engine == "onnx":
        raise ConfigError(
            "--engine onnx runs graphs, which no signature covers. Leave it out, or --trusted."
        )
    return "torch" if trusted else engine


def _run(service: Service, lessons: Lessons | None, app: FastAPI, host: str, port: int) -> None:
    """Listen until a signal; what was begun is answered before the end."""
    import asyncio
    import signal
    from contextlib import nullcontext

    import uvicorn

    from petiole.serving.telemetry import log_to

    class Server(uvicorn.Server):
        """Leaves signals to ``main``: they come before it begins, too, and what follows its end is not cut off."""

        def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
            return nullcontext()

    async def main(listening: socket.socket) -> None:
        limits = service.limits
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            lifespan="off",
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=int(limits.seconds),
            server_header=False,
        )
        server, starting = Server(config), asyncio.create_task(service.start())

        def end(number: int) -> None:
            server.handle_exit(number, None)
            starting.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        try:
            await starting
        except asyncio.CancelledError:
            return
        address, number = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        print(f"serving  http://{shown}:{number}  ({len(service.entries)} adapters)", flush=True)
        await server.serve([listening])
        if lessons:
            await lessons.stop()
        await service.stop()

    log_to(sys.stderr)
    with bound(host, port) as listening:
        asyncio.run(main(listening))


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there, and whose connections send at once.

    asyncio sets that only on sockets that state their protocol; accepted ones inherit it from here. Without it the kernel holds the
    second half of an answer back until the client acknowledges the first, 40 ms later.
    """
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=1024)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def named(adapters: Sequence[Path], empty: bool) -> tuple[dict[str, Path], Path | None]:
    """Adapters by the names of their folders, and where uploads are kept, if that is a pool.

    Args:
        adapters: as they were given.
        empty: whether there may be none.

    Raises:
        ConfigError: no adapters, or two of one name.
    """
    from petiole.serving.service import find_adapters, is_adapter

    found: dict[str, Path] = {}
    pool = adapters[0] if len(adapters) == 1 and not is_adapter(adapters[0]) else None
    if pool:
        if not pool.is_dir():
            raise ConfigError(
                f"{pool}: no such folder. Name adapters, run folders, or a folder of them."
            )
        found = find_adapters(pool)
    for folder in () if pool else adapters:
        place = folder.resolve()
        name = place.parent.name if place.name == "adapter" else place.name
        if name in found:
            raise ConfigError(
                f"{found[name]} and {folder} have one name, {name}. Rename one of the folders."
            )
        found[name] = folder
    if not found and not empty:
        raise ConfigError(
            f"Nothing to serve{f' in {pool}' if pool else ''}: name adapters, run folders, or a folder of them; or "
            "--backbone, for adapters that are uploaded."
        )
    return found, pool
