"""What a tuned encoder is asked, which images are routed, what is told of its codes, how language models are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from petiole.tasks.codebook import images as looks
from petiole.tasks.codebook import task as run_of
from petiole.tasks.codebook import training, workspace
from petiole.tasks.codebook.task import CodebookRun
from petiole.tasks.codebook.workspace import CodebookQuestions
from petiole.tasks.text import training as texts


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
    assert told == ([] if quiet else [(("note     at step 10: [1] code",), plain)])


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


def test_codes_are_looked_at_before_while_and_after_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    told: list[Any] = []
    noted: list[Any] = []
    seen = iter(range(9))
    probe = SimpleNamespace(diagnosis=lambda: {"n": next(seen)})
    monkeypatch.setattr(run_of, "CodeProbe", lambda *given: probe if given == ("adapted", "folder", "samples") else None)  # fmt: skip
    monkeypatch.setattr(run_of, "collapse", lambda now, start: (now["n"], start["n"]))
    monkeypatch.setattr(run_of, "appender", lambda file, fresh: lambda *given: noted.append((file.name, fresh, *given)))  # fmt: skip

    def train(*given: Any, measure: Any, **more: Any) -> float:
        assert given == ("adapted", "method", "folder", "samples")
        assert more == {"seed": 5, "general": "general", "precision": "fp32", "callbacks": "callbacks"}  # fmt: skip
        for step in (0, 1, run_of.EVERY):
            measure(step)
        return 2.5

    monkeypatch.setattr(run_of.training, "train", train)
    task = SimpleNamespace(precision="fp32")
    run: Any = SimpleNamespace(
        workspace=SimpleNamespace(data={"train": "samples"}, general="general", task=task),
        spec=SimpleNamespace(folder=tmp_path, seed=5), image_folder="folder", method="method", diagnosis={},
        _tell=lambda *given: told.append(given),
    )  # fmt: skip
    assert CodebookRun.train(run, "adapted", "callbacks") == 2.5  # type: ignore[arg-type]
    every = run_of.EVERY
    assert told == [("before training", (0, 0)), ("at step 0", (1, 0)), (f"at step {every}", (2, 0)), ("after training", (3, 0))]  # fmt: skip
    assert noted == [(run_of.DIAGNOSTICS, True, 0, {"n": 1}), (run_of.DIAGNOSTICS, True, every, {"n": 2})]  # fmt: skip
    assert run.diagnosis == {"start": {"n": 0}, "end": {"n": 3}}


def test_a_bar_moves_by_what_is_answered_and_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []

    @contextmanager
    def bar(label: str, total: int, *, quiet: bool) -> Iterator[Any]:
        moved.append((label, total, quiet))
        yield moved.append

    asked: list[Any] = []
    for module in (training, texts, looks):
        monkeypatch.setattr(module, "progress", bar)
        monkeypatch.setattr(module, "ROWS", 2)
    samples: Any = [SimpleNamespace(images=(f"{i}.png",), text=f"q{i}") for i in range(5)]
    adapted: Any = SimpleNamespace(model=SimpleNamespace(name="m"))
    adapted.answer = lambda seen, questions, **_: asked.append((seen, questions)) or questions
    said = training.answers(adapted, lambda names: names, samples, quiet=False)  # type: ignore[arg-type]
    assert said == [f"q{i}" for i in range(5)]
    assert asked[0] == (["0.png", "1.png"], ["q0", "q1"])
    assert moved == [("answers m", 5, False), 2, 2, 1]
    moved.clear()
    collator: Any = SimpleNamespace(tasks=[SimpleNamespace(name="t", task="task")], inputs=lambda owners, rows: (len(owners), rows))  # fmt: skip
    adapted.answer = lambda inputs, task, number: [one.text for one in inputs[1]] if (inputs[0], task, number) == (len(inputs[1]), "task", 0) else []  # fmt: skip
    assert texts.answers(adapted, collator, 0, samples) == said
    assert moved == [("answers t", 5, True), 2, 2, 1]
    moved.clear()
    folder: Any = object.__new__(looks.ImageFolder)
    monkeypatch.setattr(looks.ImageFolder, "__call__", lambda _, names: names)
    monkeypatch.setattr(looks, "evaluating", lambda _: nullcontext())
    monkeypatch.setattr(looks, "joined", lambda parts: parts)
    adapted.encode_images = lambda names: names
    found = folder.vision_outputs(adapted, ["a", "b", "a", "c"])
    assert (found.all, found.places) == ([["a", "b"], ["c"]], {"a": 0, "b": 1, "c": 2})
    assert moved == [("looking", 3, True), 2, 1]


@pytest.mark.parametrize(("count", "chosen"), [(3, [0, 1, 2]), (8, [*range(8)]), (17, [*range(0, 16, 2)]), (24, [*range(0, 24, 3)])])  # fmt: skip
def test_a_training_is_counted_by_a_few_samples_evenly(
    count: int, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One matrix product of 2 x 2 by 2 x 2, forward and backward, three gradients a step."""
    asked: list[Any] = []
    trained = nn.Parameter(torch.ones(2, 2))

    class Loss(nn.Module):
        def __init__(self, adapted: Any, losses: Any) -> None:
            super().__init__()
            self.given, self.weight = (adapted, losses), trained

        def forward(self, batch: str) -> torch.Tensor:
            assert batch == "batch"
            return (torch.ones(2, 2) @ self.weight).sum()

    def loader(*given: Any) -> Any:
        asked.append(given)
        return lambda *which: asked.append(which) or "batch"

    monkeypatch.setattr(training, "CodebookLoss", Loss)
    monkeypatch.setattr(training, "BatchLoader", loader)
    monkeypatch.setattr(training, "gradient_evaluations", lambda method: 3 if method is made else 0)
    made: Any = SimpleNamespace(losses=lambda model: ("losses", model))
    model = SimpleNamespace(device=torch.device("cpu"))
    adapted: Any = SimpleNamespace(model=model, attached=nullcontext)
    samples: Any = range(count)
    found = training.sample_flops(adapted, made, "folder", samples, general="general")  # type: ignore[arg-type]
    assert found == 3 * 2 * (2 * 2 * 2 * 2) / len(chosen)
    (*given, few, seed, general), which = asked
    assert (given, [*few], seed, general) == ([adapted, made, "folder"], chosen, 0, "general")
    assert which == (0, range(len(chosen)), 0, 1)
    assert trained.grad is None, "nothing is left behind"
    trained.requires_grad_(False)
    assert training.sample_flops(adapted, made, "folder", samples) == 0  # type: ignore[arg-type]
    assert len(asked) == 2


@pytest.mark.parametrize("scored", ["test", "val"])
def test_a_scored_part_is_opened_once_for_all_language_models(scored: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    told: list[Any] = []

    class Data(dict):  # type: ignore[type-arg]
        task = "vqa"

        def digest(self) -> str:
            return "digest"

    samples: Any = [SimpleNamespace(images=(f"{i}.png", "other")) for i in range(2)]
    models = [SimpleNamespace(model=SimpleNamespace(name=name)) for name in "mno"]
    adapted: Any = models[0]
    adapted.on = lambda other: models["mno".index(other)]
    monkeypatch.setattr(run_of, "counts", lambda *given, quiet: told.append((*given, quiet)) or SimpleNamespace(tuned="tuned"))  # fmt: skip
    monkeypatch.setattr(run_of, "count_test_evaluation", lambda *given, **more: told.append((given, more)))  # fmt: skip
    monkeypatch.setattr(run_of, "find", lambda name: f"task {name}")
    monkeypatch.setattr(run_of.training, "answers", lambda one, *given, quiet: told.append((one.model.name, *given, quiet)) or f"of {one.model.name}")  # fmt: skip
    monkeypatch.setattr(run_of, "write_predictions", lambda folder, name, *given: {name: (folder, *given)})  # fmt: skip
    run: Any = SimpleNamespace(
        workspace=SimpleNamespace(data=Data({"train": "t", scored: samples}), others=("n", "o"), task=SimpleNamespace(quiet=True)),
        chosen=SimpleNamespace(scored=scored, pruning="p"),
        image_folder=SimpleNamespace(vision_outputs=lambda one, names, quiet: (one.model.name, names, quiet)),
    )  # fmt: skip
    scores = CodebookRun.evaluate(run, adapted, tmp_path)
    assert scores == {name: {name: (tmp_path, "task vqa", samples, f"of {name}")} for name in "mno"}
    seen = ("m", ["0.png", "1.png"], True)
    counted = [((tmp_path, "digest", 2, "end of training"), {"once": True})] * (scored == "test")
    asked = [(name, seen, samples, "p", "tuned", True) for name in "mno"]
    assert told == [(adapted, run.image_folder, "t", True), *counted, *asked]
    assert run.frequencies.tuned == "tuned"
