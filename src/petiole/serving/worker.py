"""The inference process: rows in, answers out; adapters are opened beside it, so that nothing waits for them."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

from petiole.allocator import tune_allocator
from petiole.errors import PetioleError, unknown
from petiole.serving.channel import Message, receive, send

Answer = tuple[dict[str, Any], list[bytes]]
Handler = Callable[[dict[str, Any], list[bytes]], Answer]
Handlers = tuple[dict[str, Handler], dict[str, Handler], dict[str, Any]]


def inference(connection: Connection, setup: Mapping[str, Any]) -> None:
    """Main of the process.

    Args:
        connection: to the HTTP process; its end is the end of this one.
        setup: ``folders`` of adapters (name -> folder), ``backbones`` (names), ``device``, ``loaded``, ``pixels``, ``engine``, ``trusted``, ``cache``
            (folder), and ``graphs`` that are known already (folder -> its graph).
    """
    serve(connection, partial(inference_handlers, setup))


def inference_handlers(setup: Mapping[str, Any]) -> Handlers:
    """What answers messages in an inference process.

    Args:
        setup: see ``inference``.

    Returns:
        Handlers that run in turn, those that run beside them, and the adapters' descriptions.
    """
    from petiole.data.image import decode
    from petiole.serving.library import AdapterLibrary
    from petiole.serving.nearest import TrainingImages
    from petiole.serving.runs import compare_runs, list_runs

    library = AdapterLibrary(
        *(setup["device"], setup["loaded"], setup["pixels"], setup["engine"]),
        trusted=Path(setup["trusted"]) if setup["trusted"] else None,
    )
    training = TrainingImages(Path(setup["cache"]))
    described = {name: library.describe(Path(f)) for name, f in setup["folders"].items()}
    library.load(setup["backbones"])
    library.warm([Path(folder) for folder in setup["folders"].values()])
    for folder, place in setup["graphs"].items():
        with suppress(PetioleError):  # torch answers
            library.use(folder, Path(place))

    def rows(value: dict[str, Any], blobs: list[bytes]) -> Answer:
        start = perf_counter()
        read = library.reads
        answers = library.answer(value["rows"], blobs)
        return {
            "answers": answers,
            "groups": library.groups({row["folder"] for row in value["rows"]}),
            "seconds": perf_counter() - start,
            "reads": library.reads - read,
        }, []

    def admit(value: dict[str, Any], _: list[bytes]) -> Answer:
        return library.admit(Path(value["folder"])), []

    def use(value: dict[str, Any], _: list[bytes]) -> Answer:
        library.use(value["folder"], Path(value["place"]))
        return {}, []

    def nearest(value: dict[str, Any], blobs: list[bytes]) -> Answer:
        backbone = library.open(value["folder"]).adapted.backbone
        image = decode(blobs[0], "the image", setup["pixels"])
        return {"images": training.nearest(Path(value["folder"]), backbone, image)}, []

    def forget(value: dict[str, Any], _: list[bytes]) -> Answer:
        library.forget(value["folder"])
        return {}, []

    def runs(value: dict[str, Any], _: list[bytes]) -> Answer:
        root, names = Path(value["folder"]), value["names"]
        return compare_runs(root, names) if names else {"runs": list_runs(root)}, []

    return (
        {"rows": rows, "forget": forget},
        {"admit": admit, "use": use, "runs": runs, "nearest": nearest},
        described,
    )


def serve(
    connection: Connection,
    handlers: Callable[[], Handlers],
) -> None:
    """Answer messages until the other side is gone.

    Args:
        connection: to the HTTP process.
        handlers: makes those that run in turn, those that run beside them, and what is said first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the HTTP process's
    tune_allocator()  # the parent's settings do not reach a spawned process
    faulthandler.enable()  # a crash in a library of C says where
    try:
        in_turn, beside, hello = handlers()
    except Exception as error:
        send(connection, error_of(error))
        return
    send(connection, {"described": hello})
    lock = Lock()

    def respond(handler: Handler, message: Message, number: int) -> None:
        try:
            value, blobs = handler(message.value, message.blobs)
        except Exception as error:
            value, blobs = error_of(error), []
        with lock:
            send(connection, {**value, "number": number}, blobs)

    def unforeseen(value: dict[str, Any], _: list[bytes]) -> Answer:
        raise unknown("request", str(value.get("do")), {*in_turn, *beside})

    with ThreadPoolExecutor(1) as aside:
        while True:
            try:
                message = receive(connection)
            except (EOFError, OSError):
                return
            number, do = message.value["number"], str(message.value.get("do"))
            if do in beside:
                aside.submit(respond, beside[do], message, number)
            else:
                respond(in_turn.get(do, unforeseen), message, number)


def error_of(error: Exception) -> dict[str, Any]:
    """What is answered instead."""
    known = isinstance(error, PetioleError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return {"error": text, "kind": type(error).__name__ if known else "Unforeseen"}
