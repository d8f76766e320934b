"""A worker process answers whatever it is asked."""

from multiprocessing import Pipe
from threading import Thread
from typing import Any

import pytest

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
