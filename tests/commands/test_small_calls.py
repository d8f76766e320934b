"""What verbs refuse before they begin, what they hand on, and what they print, on stand-ins of the rooms below."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from builders.asked import PLAIN, Asked, workspace
from petiole.commands import compare as comparing
from petiole.commands import fit as fitting
from petiole.commands import fold as folding
from petiole.commands import places as placing
from petiole.commands import simulate as simulating
from petiole.commands import transfer as transferring
from petiole.commands.backbones import Backbones
from petiole.commands.cache import cache
from petiole.commands.features import _names
from petiole.commands.inspect import Inspection
from petiole.commands.label import LabelResult, ToLabel
from petiole.commands.options import ModelOptions
from petiole.commands.params import params
from petiole.commands.places import Places, placed
from petiole.commands.predict import Prediction, PredictResult
from petiole.commands.serve import bound
from petiole.errors import ConfigError, DataError, PetioleError
from petiole.stores.address import Address
from petiole.tasks.classification.workspace import Classification, Subset


def printed(one: Any, width: int = 200) -> list[str]:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as kept:
        console.print(one.text())
    return [line.rstrip() for line in kept.get().splitlines()]


# --- addresses ------------------------------------------------------------------------------------


class Writes(Places):
    """Places whose arguments are local already."""

    def __init__(self, verb: str, given: Any) -> None:
        super().__init__(verb, given)
        self._read = [(Address.parse("s3://b/data"), Path("/m/data"))]  # type: ignore[list-item]
        self._written = [Address.parse("s3://b/run")]  # type: ignore[list-item]

    def local(self) -> dict[str, Any]:
        return {"out": "local"}


def test_what_was_written_is_published_at_the_end_and_told(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(placing, "Places", Writes)
    counts = iter([{"b": Counter(get=2)}, {"b": Counter(get=5, put=1), "c": Counter()}])
    monkeypatch.setattr("petiole.stores.base.requests", lambda: next(counts))
    monkeypatch.setattr("petiole.stores.mount.walk", lambda _: [SimpleNamespace(name=n) for n in ("a.JPG", "b.png", "c.txt")])  # fmt: skip
    asked.of("petiole.stores.publish.publish", 2)
    with placed("fit", {"out": "s3://b/run"}) as given:
        assert given == {"out": "local"}
        assert not asked.names
    assert asked.one("publish") == ((Address.parse("s3://b/run"),), {"finished": True})
    assert capsys.readouterr().err.splitlines() == [
        "published  s3://b/run (2 files)",
        "requests   b: 3 get, 1 put; 2.00 for each of 2 images",
    ]
    with placed("fit", {"seed": 3, "data": ["x"]}) as given:
        assert given == {"seed": 3, "data": ["x"]}


@pytest.mark.parametrize("second", [False, True])
def test_after_an_error_what_is_there_is_published_unfinished(
    second: bool, asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(placing, "Places", Writes)
    monkeypatch.setattr("petiole.stores.base.requests", dict)
    asked.of("petiole.stores.publish.publish", 1)
    if second:

        def fails(*_: Any, **__: Any) -> int:
            raise PetioleError("the store is gone")

        monkeypatch.setattr("petiole.stores.publish.publish", fails)
    run = placed("fit", {"out": "s3://b/run"})
    run.__enter__()
    error = DataError("/m/data/a.png: bad")
    assert not run.__exit__(DataError, error, None)
    assert str(error) == "s3://b/data/a.png: bad"
    said = "the store is gone" if second else "unfinished, for --resume  s3://b/run (1 file)"
    assert capsys.readouterr().err.splitlines() == [said]


def test_a_cache_in_a_store_is_written_to_and_shared(asked: Asked, tmp_path: Path) -> None:
    checked: list[str] = []
    store = SimpleNamespace(check_writable=lambda: checked.append("writable"))
    asked.of("petiole.stores.base.open_store", store)
    asked.of("petiole.stores.mirror.mirror_place", tmp_path / "mirror")
    asked.of("petiole.stores.mount.tree", tmp_path)
    asked.of("petiole.stores.mount.materialise", tmp_path / "data")
    asked.of("petiole.stores.known.learn")
    asked.of("petiole.stores.known.share")
    places = Places("fit", {"data": "s3://b/data", "cache_dir": "s3://b/cache", "tasks": ["vqa=s3://b/t"], "seed": 3})  # fmt: skip
    assert places.local() == {"data": str(tmp_path / "data"), "cache_dir": str(tmp_path / "mirror"), "tasks": [f"vqa={tmp_path / 'data'}"], "seed": 3}  # fmt: skip
    assert checked == ["writable"]
    places.publish(finished=True)
    assert asked.names.count("share") == asked.names.count("learn") == 2
    assert places.named(f"{tmp_path}/x") == "s3://b/data/x"


def test_what_a_verb_writes_as_it_goes_is_local() -> None:
    verb, (name, *_) = next((verb, tuple(names)) for verb, names in placing._KEPT.items() if names)
    with pytest.raises(ConfigError, match=f"petiole {verb} writes {name.replace('_', '-')} on this machine as it goes, and s3://b/x is in a store"):  # fmt: skip
        Places(verb, {name: "s3://b/x"}).local()


# --- comparisons, fits, folds, transfers ----------------------------------------------------------


def test_a_taken_folder_is_refused_before_anything_runs(asked: Asked) -> None:
    task, subset = Classification("b", Path("photos")), Subset(7)
    asked.of("petiole.commands.tasks.open_task", (task, subset))
    asked.of("petiole.engine.task.reopened", workspace())
    asked.of("petiole.commands.announce.announce")
    Path("o").mkdir()
    (Path("o") / "summary.json").write_text("{}")
    asked.of("petiole.protocols.comparison.Comparison.check_free")
    asked.of("petiole.protocols.domain_shift.compare")
    asked.of("petiole.commands.compare._write_configs")
    asked.of("petiole.report.page.write_page", Path("page"))
    asked.of("petiole.report.folder.summarise", "summary")
    comparing.compare("photos", methods=["ridge"], out=Path("o"), resume=True, **PLAIN)
    given, how = asked.one("check_free")
    assert (given[-1], how) == (Path("o"), {"resume": True})
    assert asked.names.index("check_free") < asked.names.index("compare")


def test_one_of_several_processes_trains_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "world", lambda: 1)
    fitting._check_one_model("auto", ModelOptions())
    monkeypatch.setattr(fitting, "world", lambda: 2)
    monkeypatch.setattr(fitting, "everywhere", lambda error: error)
    monkeypatch.setattr("petiole.commands.defaults.candidates", list)
    fitting._check_one_model("ridge", SimpleNamespace(backbones=["a"]))  # type: ignore[arg-type]
    for method, backbones in (("auto", ["a"]), ("ridge", ["a", "b"])):
        with pytest.raises(ConfigError, match="2 processes train one model, and auto tries several"):  # fmt: skip
            fitting._check_one_model(method, SimpleNamespace(backbones=backbones))  # type: ignore[arg-type]


def test_a_folded_adapter_is_written_and_counted(asked: Asked, tmp_path: Path) -> None:
    saved: list[Path] = []
    ledger = SimpleNamespace(inference=7, fixed=5)
    folded = SimpleNamespace(save=saved.append, manifest=SimpleNamespace(ledger=ledger), classes=("a", "b"))  # fmt: skip
    asked.of("petiole.engine.adapter.kind_of", "classification")
    asked.of("petiole.tasks.classification.adapter.ClassificationAdapter.load", "opened")
    asked.of("petiole.tasks.classification.fold.fold", folded)
    done = folding.fold(tmp_path / "a", out=tmp_path / "new")
    assert saved == [tmp_path / "new"]
    assert (done.adapter, done.classes, done.values) == (tmp_path / "new", 2, 12)
    with pytest.raises(
        ConfigError, match=r"exists already\. Move it away, or choose another --out"
    ):
        folding.fold(tmp_path / "a", out=tmp_path)
    asked.of("petiole.engine.adapter.kind_of", "codebook")
    with pytest.raises(ConfigError, match=r"is a tuned encoder: .* nothing to fold"):
        folding.fold(tmp_path / "a", out=tmp_path / "other")
    asked.of("petiole.engine.adapter.kind_of", "text")
    with pytest.raises(ConfigError, match="names its language model; --weights"):
        folding.fold(tmp_path / "a", out=tmp_path / "other", weights=tmp_path)


def test_places_of_data_sets(tmp_path: Path) -> None:
    known = {"mnist": "mnist"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "t.csv").write_text("")
    assert transferring._own(str(tmp_path / "mine"), known) == ("mine", tmp_path / "mine")
    assert transferring._own(str(tmp_path / "t.csv"), known) == ("t", tmp_path / "t.csv")
    assert transferring._own("x=there", known) == ("x", Path("there"))
    for item, words in (
        ("mnist=there", "mnist is the name of a published data set"),
        (".b=there", "'.b' cannot name a folder"),
        ("nothing", "data set or folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            transferring._own(item, known)
    found, published = transferring._images(["x=there", "mnist"], tmp_path)
    assert found == {"x": Path("there"), "mnist": tmp_path / "mnist" / "images.csv"}
    assert published == {"mnist"}
    with pytest.raises(ConfigError, match="Two data sets are called x"):
        transferring._images(["x=a", "x=b"], tmp_path)


def test_backbones_of_a_transfer() -> None:
    found = transferring._backbones(["timm/a", "b=w.safetensors"], ModelOptions(), ["ridge"])
    assert [(name, one.backbone, one.weights) for name, one in found.items()] == [
        ("a", "timm/a", None), ("b+w", "b", Path("w.safetensors")),
    ]  # fmt: skip
    one = transferring._backbones([], ModelOptions("x", weights=Path("w")), ["ridge"])
    assert list(one) == ["x+w"]
    with pytest.raises(ConfigError, match="--weights fits one backbone"):
        transferring._backbones(["a"], ModelOptions(weights=Path("w")), ["ridge"])
    with pytest.raises(ConfigError, match="Two backbones are called a; rename"):
        transferring._backbones(["timm/a", "hf/a"], ModelOptions(), ["ridge"])


# --- simulations and counts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"work": "features"}, "How many images. Add --images N"),
        ({"work": "runs", "images": 3}, "How many runs. Add --runs N"),
        ({"work": "requests"}, "How many requests. Add --requests N"),
        ({"work": "features", "images": 3, "cores": 2}, "--cores decode beside a GPU: add --gpu"),
        ({"work": "features", "images": 3, "device": "cpu"}, "--device is of the measurement of images: add --like"),
        ({"work": "features", "images": 3, "skew": 1.0}, "petiole simulate features has no use for --skew; requests has"),
        ({"work": "requests", "requests": 3.0, "price": 1.0}, "requests has no use for --price; features has"),
        ({"work": "features", "images": 3, "unit": ["x=1"]}, "part whose cost is known"),
        ({"work": "features", "images": 3, "unit": ["decode=x"]}, "--unit is NAME=SECONDS, and not 'decode=x'"),
        ({"work": "features", "images": 3, "unit": ["decode=-1"]}, "decode=-1: seconds are 0 or more"),
        ({"work": "features", "images": 3, "unit": ["decode=inf"]}, "decode=inf: seconds are 0 or more"),
    ],
)  # fmt: skip
def test_what_a_simulation_cannot_be_of(given: dict[str, Any], words: str) -> None:
    work = given.pop("work")
    with pytest.raises(ConfigError, match=words):
        simulating.simulate(work, **given)


def test_what_a_simulation_is_asked(asked: Asked) -> None:
    done = SimpleNamespace(seconds=7200.0, bottleneck="b", stages={"x": 1.0}, notes=("n",))
    for name in ("extraction", "table", "serving"):
        asked.of(f"petiole.planning.scale.{name}", done)
    asked.of("petiole.planning.scale.cost", 12.5)
    units = {"unit": ["decode=0", "forward=2"]}
    found = simulating.simulate("features", images=9, gpu=True, cores=2, machines=3, price=4.0, **units)  # fmt: skip
    _, how = asked.one("extraction")
    costs = how.pop("costs")
    assert (how, costs.decode, costs.forward) == ({"images": 9, "gpu": True, "cores": 2, "workers": 3}, 0, 2)  # fmt: skip
    assert asked.one("cost")[0] == (7200.0, 3, 4.0)
    assert (found.seconds, found.cost, found.bottleneck, found.notes) == (7200.0, 12.5, "b", ["n"])
    simulating.simulate("runs", runs=5, images=9)
    assert {k: v for k, v in asked.one("table")[1].items() if k != "costs"} == {"runs": 5, "images": 9, "places": 1}  # fmt: skip
    done.seconds = float("inf")
    last = simulating.simulate("requests", requests=2.0, adapters=3, loaded=4, skew=0.0, machines=2)
    assert {k: v for k, v in asked.one("serving")[1].items() if k != "costs"} == {"requests": 2.0, "adapters": 3, "loaded": 4, "skew": 0.0, "replicas": 2}  # fmt: skip
    assert (last.seconds, last.cost) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(1.9, "1,900.0 ms"), (2, "2.0 s"), (119, "119.0 s"), (120, "2.0 min"), (7199, "120.0 min"), (7200, "2.0 h"), (172800, "2.0 days"), (2 * 365.25 * 86400, "2.0 years")],
)  # fmt: skip
def test_durations_are_in_the_unit_in_which_they_are_read(seconds: float, said: str) -> None:
    assert simulating._duration(seconds) == said


def test_what_is_counted_of_a_language_model(asked: Asked) -> None:
    shape = SimpleNamespace()
    asked.of("petiole.backbones.registry.load_any", shape)
    asked.of("petiole.tasks.text.adapter.method_of", SimpleNamespace(tasks=3))
    counted = SimpleNamespace(model_dump=lambda **_: {"unit": {"text_tokens": 20, "visual_tokens": 0, "images": 1}})  # fmt: skip
    asked.of("petiole.ledger.ledger", counted)
    own: Any = {"backbone": "clip-bart-base", "method": "vl-adapter"}
    found = params(**own, settings=["reduction=4"], text_tokens=20)
    (request,), how = asked.one("load_any")
    assert (request.name, request.meta, how) == ("clip-bart-base", True, {"device": "meta"})
    assert asked.one("method_of")[0] == ("vl-adapter", {"reduction": "4"})
    (given, _) = asked.one("ledger")
    assert (given[0], given[2], given[3].text_tokens) == (shape, 1, 20)
    assert found.of == {"tasks": 3, "text_tokens": 20}
    with pytest.raises(ConfigError, match="is a language model, which has no head over classes"):
        params(**own, classes=1)
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match=f"classes must be at least 1, not {wrong}"):
            params(**own, classes=wrong)


# --- what is printed ------------------------------------------------------------------------------


def test_numbers_of_backbones_stand_at_the_right() -> None:
    one = {"name": "a", "accuracy": 0.5, "low": 0.4, "high": 0.62, "parameters": 5_000_000, "megabytes": 20, "gflops": 1, "seconds": 3, "licence": "MIT", "images": 9}  # fmt: skip
    other = one | {"name": "longer", "seconds": 123.0, "accuracy": 1.0, "licence": "Apache"}
    lines = printed(Backbones(backbones=[one, other], unusable={"x": "too large"}))
    assert lines == [
        "backbone   accuracy, %  M params    MB  GFLOPs  seconds  licence",
        "a          50.0 ± 11.0       5.0  20.0    1.00      3.0  MIT",
        "longer    100.0 ± 11.0       5.0  20.0    1.00    123.0  Apache",
        "of 9 left-out target images, by the averaged ridge",
        "note     x: too large",
    ]


def test_facts_are_folded_and_not_cut() -> None:
    lines = printed(Inspection(what="thing", facts={"a": [1, 2], "long": "x" * 50}), width=30)
    assert lines[0] == "thing"
    assert lines[1].split() == ["a", "1,", "2"]
    assert "".join(line.split()[-1] for line in lines[2:]).count("x") == 50
    html = Inspection(what="t", facts={"a": "y" * 300})._repr_html_()
    assert html.startswith("<pre>")
    rows = html.split("</pre>")[0].splitlines()
    # Beside a column of one character, and what stands between them, of 110.
    assert max(row.count("y") for row in rows) == 106


def test_predictions_are_shown_with_the_next_three() -> None:
    probabilities = {"a": 0.5, "b": 0.25, "c": 0.125, "d": 0.0625, "e": 0.03}
    first = Prediction(path="1.png", label="b", probability=0.25, probabilities=probabilities, label_set=["b", "c"], outside=True)  # fmt: skip
    plain = Prediction(path="2.png", label="", probability=0.5, abstain=True, outside=False)
    found = PredictResult(adapter=Path("a"), model="m", predictions=[first, plain], notes=["n"])
    lines = printed(found)
    assert lines[0].split() == ["image", "label", "p", "next", "set", "mark"]
    assert lines[1].split() == ["1.png", "b", "0.250", "a", "0.500,", "c", "0.125,", "d", "0.062", "b,", "c", "out", "of", "distribution"]  # fmt: skip
    assert lines[2].split() == ["2.png", "none", "0.500", "abstain"]
    assert lines[3] == "note     n"
    head, one, two = found.to_csv().splitlines()
    assert head == "path,label,probability,question,label_set,outside,abstain"
    assert one == "1.png,b,0.250000,,b|c,yes,"
    assert two == "2.png,,0.500000,,,no,yes"
    few = PredictResult(adapter=Path("a"), model="m", predictions=[Prediction(path="q.png", label="red", question="what?")])  # fmt: skip
    assert printed(few) == ["red"]


def test_names_of_images_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/1.JPG", "b/2.png", "a.png", "x.tar", "y.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert _names(tmp_path, videos=False) == ["a.png", "b/1.JPG", "b/2.png"]
    assert _names(tmp_path, videos=False, packed=True) == ["a.png", "b/1.JPG", "b/2.png", "x.tar"]
    assert _names(tmp_path, videos=True) == [".", "b"]
    assert _names(tmp_path, videos=True, packed=True) == [".", "b"]
    (empty := tmp_path / "none").mkdir()
    for root, words in ((empty, "holds no images. Name a folder"), (tmp_path / "lost", "no such folder")):  # fmt: skip
        with pytest.raises(DataError, match=words):
            _names(root, videos=False)


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "AF_INET"), ("::1", "AF_INET6")])
def test_a_socket_sends_at_once(host: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    opened = SimpleNamespace(setsockopt=lambda *given: said.append(given))
    monkeypatch.setattr(socket, "create_server", lambda *given, **how: said.append((*given, how)) or opened)  # fmt: skip
    assert bound(host, 7) is opened
    assert said == [
        ((host, 7), {"family": getattr(socket, family), "backlog": 1024}),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ]


@pytest.mark.parametrize(("count", "said"), [(20, []), (21, ["… and 1 more"])])
def test_twenty_images_to_label_are_shown(count: int, said: list[str]) -> None:
    rows = [ToLabel(path=f"{i}.png", cluster=i, size=1 + i % 2, typicality=1.0) for i in range(count)]  # fmt: skip
    found = LabelResult(folder=Path("f"), csv=Path("l.csv"), report=Path("r.html"), backbone="b", images=9, labelled=0, chosen=rows)  # fmt: skip
    lines = printed(found)
    assert [line.split() for line in lines[1:3]] == [["0.png", "1", "image"], ["1.png", "2", "images"]]  # fmt: skip
    assert lines[21:-2] == said


@pytest.mark.parametrize(
    ("action", "removes", "everything", "verifies"),
    [("list", False, None, False), ("verify", False, None, True), ("clean", True, False, False), ("clear", True, True, False)],
)  # fmt: skip
def test_what_a_cache_is_asked(
    action: Any, removes: bool, everything: bool | None, verifies: bool, asked: Asked
) -> None:
    asked.of("petiole.engine.feature_store.clean", 7)
    asked.of("petiole.engine.feature_store.entries", [])
    found = cache(action, cache_dir=Path("c"))
    assert (found.folder, found.removed) == (Path("c"), 7 * removes)
    assert asked.one("entries") == ((Path("c"),), {"verify": verifies})
    if removes:
        assert asked.one("clean") == ((Path("c"),), {"everything": everything})
    else:
        assert asked.names == ["entries"]
