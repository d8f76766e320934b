"""A worker process answers whatever it is asked."""

from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.errors import AdapterError, DataError
from petiole.serving import worker
from petiole.serving.channel import receive, send


def test_a_request_that_it_does_not_know_is_answered_and_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)  # this process keeps its Ctrl-C
    tuned: list[bool] = []
    monkeypatch.setattr(worker, "tune_allocator", lambda: tuned.append(True))
    mine, theirs = Pipe()
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        receive(mine)
        for number, asked in enumerate([{"do": "rous"}, {}, {"do": "rows"}, {"do": "aside"}]):
            send(mine, {**asked, "number": number})
            answers.append(receive(mine).value)
        mine.close()

    asking = Thread(target=ask)
    asking.start()
    yes = {name: (lambda *_, name=name: ({"done": name}, [])) for name in ("rows", "aside")}
    worker.serve(theirs, lambda: ({"rows": yes["rows"]}, {"aside": yes["aside"]}, {}))
    asking.join()
    assert tuned, "a spawned process does not inherit its parent's malloc settings"
    assert [answer["number"] for answer in answers] == [0, 1, 2, 3]
    assert answers[0]["error"] == "Unknown request 'rous'. Did you mean rows?"
    assert answers[1]["kind"] == "ConfigError"
    assert [answer.get("done") for answer in answers[2:]] == ["rows", "aside"]


def test_a_message_has_its_blobs() -> None:
    mine, theirs = Pipe()
    send(mine, {"a": [1]}, [b"x", b"", b"yz"])
    mine.close()
    assert receive(theirs) == ({"a": [1]}, [b"x", b"", b"yz"])


def test_a_process_that_cannot_begin_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("signal.signal", "faulthandler.enable", "tune_allocator"):
        monkeypatch.setattr(f"petiole.serving.worker.{name}", lambda *_: None)
    mine, theirs = Pipe()

    def fails() -> Any:
        raise DataError("it is torn")

    worker.serve(theirs, fails)
    theirs.close()
    assert receive(mine).value == {"error": "it is torn", "kind": "DataError"}


def test_inference_serves_its_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(worker, "serve", lambda *given: served.append(given))
    monkeypatch.setattr(worker, "inference_handlers", lambda setup: ("handlers of", setup))
    worker.inference("connection", {"x": 1})  # type: ignore[arg-type]
    [(connection, handlers)] = served
    assert (connection, handlers()) == ("connection", ("handlers of", {"x": 1}))


class Library:
    """Notes what it is asked."""

    def __init__(self, *given: Any, **more: Any) -> None:
        self.reads, self.asked = 3, list[Any]([(given, more)])

    def __getattr__(self, name: str) -> Any:
        def noted(*given: Any) -> str:
            self.asked.append((name, *given))
            if given[-1] == Path("torn"):
                raise AdapterError("it is torn")
            self.reads += 2 * (name == "answer")
            return f"{name} said"

        return noted

    def open(self, folder: str) -> Any:
        return SimpleNamespace(adapted=SimpleNamespace(backbone=f"backbone of {folder}"))


SETUP = {
    "device": "d", "loaded": 5, "pixels": 9, "engine": "auto", "trusted": "owner.pem", "cache": "c",
    "folders": {"a": "/a"}, "backbones": ["vit"], "graphs": {"/b": "torn", "/a": "g"},
}  # fmt: skip


def test_each_request_is_put_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Library] = []
    near: list[Any] = []
    training = SimpleNamespace(nearest=lambda *given: near.append(given) or ["n"])
    monkeypatch.setattr("petiole.serving.library.AdapterLibrary", lambda *given, **more: made.append(Library(*given, **more)) or made[-1])  # fmt: skip
    monkeypatch.setattr("petiole.serving.nearest.TrainingImages", lambda cache: near.append(cache) or training)  # fmt: skip
    monkeypatch.setattr("petiole.serving.runs.list_runs", lambda root: ["all", root])
    monkeypatch.setattr("petiole.serving.runs.compare_runs", lambda root, names: {"some": [root, *names]})  # fmt: skip
    monkeypatch.setattr("petiole.data.image.decode", lambda *given: given)
    in_turn, beside, described = worker.inference_handlers(SETUP)
    (library,) = made
    assert described == {"a": "describe said"}
    assert library.asked == [
        (("d", 5, 9, "auto"), {"trusted": Path("owner.pem")}),
        ("describe", Path("/a")), ("load", ["vit"]), ("warm", [Path("/a")]),
        ("use", "/b", Path("torn")), ("use", "/a", Path("g")),
    ]  # fmt: skip
    assert near == [Path("c")]
    library.asked.clear()
    rows = [{"folder": "/a"}, {"folder": "/b"}, {"folder": "/a"}]
    said, blobs = in_turn["rows"]({"rows": rows}, [b"x"])
    assert said.pop("seconds") >= 0
    assert (said, blobs) == ({"answers": "answer said", "groups": "groups said", "reads": 2}, [])
    assert in_turn["forget"]({"folder": "/a"}, []) == ({}, [])
    assert beside["admit"]({"folder": "/a"}, []) == ("admit said", [])
    assert beside["use"]({"folder": "/a", "place": "g"}, []) == ({}, [])
    assert library.asked == [
        ("answer", rows, [b"x"]), ("groups", {"/a", "/b"}), ("forget", "/a"), ("admit", Path("/a")),
        ("use", "/a", Path("g")),
    ]  # fmt: skip
    assert beside["nearest"]({"folder": "/a"}, [b"image"]) == ({"images": ["n"]}, [])
    assert near[1] == (Path("/a"), "backbone of /a", (b"image", "the image", 9))
    assert beside["runs"]({"folder": "r", "names": []}, []) == ({"runs": ["all", Path("r")]}, [])
    assert beside["runs"]({"folder": "r", "names": ["x"]}, []) == ({"some": [Path("r"), "x"]}, [])
    worker.inference_handlers({**SETUP, "trusted": ""})
    assert made[1].asked[0][1] == {"trusted": None}
