"""What a tuned encoder is asked, which images are routed, what is told of its codes, how language models are loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.tasks.codebook import task as run_of
from petiole.tasks.codebook import training, workspace
from petiole.tasks.codebook.task import CodebookRun
from petiole.tasks.codebook.workspace import CodebookQuestions


class Folder:
    """Looks at images by name."""

    def __init__(self, root: Path, tower: str) -> None:
        assert tower == "tower"
        self.root = root

    def vision_outputs(self, adapted: Any, names: Any) -> Any:
        return lambda some: (self.root, adapted.name, tuple(names), tuple(some))

    def routed(self, seen: Any, *given: Any) -> Any:
        return (lambda some: ("routed", given, seen(some))), 0.25


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tuned encoder that answers with what it is asked."""
    monkeypatch.setattr(training, "ImageFolder", Folder)
    adapted = SimpleNamespace(name="adapted", model=SimpleNamespace(tower="tower"))
    adapted.answer = lambda *given, **more: ["first", "second"] if more == {"pruning": "p", "frequencies": "tuned"} else [given]  # fmt: skip
    return SimpleNamespace(adapted=adapted, frequencies=SimpleNamespace(tuned="tuned"))


@pytest.mark.parametrize("route", [False, True])
def test_one_question_is_put_to_what_its_image_looks_like(adapter: Any, route: bool) -> None:
    image = Path("/a.png")
    assert training.ask(adapter, image, "?", "p", route=route) == "first"  # type: ignore[arg-type]
    ((seen, questions),) = [training.ask(adapter, image, "?", route=route)]  # type: ignore[misc]
    plain = (Path(), "adapted", ("/a.png",), ("/a.png",))
    assert questions == ["?"]  # type: ignore[comparison-overlap]
    routed = ("routed", (adapter.adapted, adapter.frequencies, ["/a.png"]), plain)
    assert seen == (routed if route else plain)  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(("route", "share"), [(False, 1.0), (True, 0.25)])
def test_questions_are_scored_with_the_share_of_images_that_are_like_the_domain(
    adapter: Any, route: bool, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [SimpleNamespace(images=(f"{i}.png", "other")) for i in range(2)]
    given: list[Any] = []

    class Data(dict):  # type: ignore[type-arg]
        root, task = Path("/data"), "vqa"

    monkeypatch.setattr(training, "answers", lambda adapted, seen, *rest: given.append((adapted, seen([]), *rest)) or ["x"])  # fmt: skip
    monkeypatch.setattr(training, "find", lambda task: SimpleNamespace(score=lambda *of: {"m": (task, *of)}))  # fmt: skip
    data: Any = Data(test=samples)
    found = training.evaluate(adapter, data, "p", route=route)  # type: ignore[arg-type]
    assert found == ({"m": ("vqa", samples, ["x"])}, share)
    [(adapted, seen, *rest)] = given
    assert (adapted, rest) == (adapter.adapted, [samples, "p", "tuned"])
    looked = (Path("/data"), "adapted", ("0.png", "1.png"), ())
    assert (seen[2] if route else seen) == looked


@pytest.mark.parametrize("quiet", [False, True])
def test_a_remark_is_told_once_as_it_is_written(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    told: list[Any] = []
    monkeypatch.setattr(run_of.console, "print", lambda *given, **how: told.append((given, how)))
    run: Any = SimpleNamespace(
        remarks=[], workspace=SimpleNamespace(task=SimpleNamespace(quiet=quiet))
    )
    for when, what in (("at step 5", ""), ("at step 10", "[1] code"), ("after training", "[1] code")):  # fmt: skip
        CodebookRun._tell(run, when, what)
    assert run.remarks == ["at step 10: [1] code"]
    plain = {"style": "yellow", "highlight": False, "markup": False}
    assert told == [] if quiet else [(("note     at step 10: [1] code",), plain)]


@pytest.mark.parametrize(("fsdp", "loaded"), [(False, {"device": "d"}), (True, {})])
def test_a_language_model_that_is_spread_is_loaded_on_the_machine_first(
    fsdp: bool, loaded: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(workspace, "load_lvlm", lambda name, **more: done.append((name, more)) or "m")  # fmt: skip
    monkeypatch.setattr(workspace, "shard", lambda *given: done.append(given))
    task = CodebookQuestions("boards", Path("q"), device="d", fsdp=fsdp)
    assert task._loaded("boards") == "m"
    assert done == [("boards", loaded), *([("m", "d")] * fsdp)]
