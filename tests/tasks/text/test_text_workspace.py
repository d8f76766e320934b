"""Model and tasks opened once: what is seen, what is left out, names of tasks, and what is refused early."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from builders.multitask import COUNTS, TASKS, language, task, text_task
from petiole.data.readers.registry import open_features
from petiole.data.text_sample import TextSample
from petiole.engine.feature_store import load_shard
from petiole.engine.run import RunSpec, run
from petiole.engine.share import Share
from petiole.engine.task import open_workspace, reopened
from petiole.errors import ConfigError, DataError
from petiole.tasks.text import task as run_of
from petiole.tasks.text import workspace as workspace_of
from petiole.tasks.text.adapter import golden_scores
from petiole.tasks.text.collator import Collator, TaskData
from petiole.tasks.text.registry import find
from petiole.tasks.text.task import TextRun
from petiole.tasks.text.visual import BackboneVisuals, PixelSource
from petiole.tasks.text.workspace import TextGeneration, open_text, opened_data

EYES, PLACES, WIDTH = "petiole/tiny-vit", 25, 192


class Place(NamedTuple):
    root: Path
    school: TextGeneration


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("school")
    folders = tuple(str(task(root / name, kind)) for name, kind in TASKS.items())
    model = str(language(root / "model"))
    return Place(
        root,
        TextGeneration(
            model, folders, EYES, visual_tokens=PLACES, cache=root / "cache", quiet=True
        ),
    )


def test_a_workspace_opens_its_model_with_vision_of_the_features_width(place: Place) -> None:
    opened = open_workspace(place.school)
    assert [data.name for data in opened.tasks] == list(TASKS.values())
    assert [data.task for data in opened.tasks] == [find(kind) for kind in TASKS.values()]
    for data in opened.tasks:
        assert isinstance(data.visuals, BackboneVisuals)
        captions = 2 if data.name == "caption" else 1
        counts = {**COUNTS, "train": captions * COUNTS["train"]}
        assert {part: len(samples) for part, samples in data.parts.items()} == counts
        seen = data.visuals(data.parts["test"][0].images[0])
        assert seen.tokens.shape == (PLACES, opened.model.vision_width)
    seeing = opened.card["vision_backbone"]
    assert opened.vision_backbone is not None
    assert (seeing.name, seeing.fingerprint) == (EYES, opened.vision_backbone.fingerprint)
    assert opened.card["visual_tokens"] == PLACES
    assert len({data.digest for data in opened.tasks}) == 3


def test_it_is_opened_once_a_process_and_anew_on_request(place: Place) -> None:
    first = open_workspace(place.school)
    assert open_workspace(replace(place.school, quiet=False)) is first, "progress decides nothing"
    assert reopened(place.school) is not first


def test_a_school_and_its_lessons_travel_to_another_process(place: Place, tmp_path: Path) -> None:
    school = replace(place.school, options=(("boxes", "grid"),))
    lesson = RunSpec(school, "vl-lora", tmp_path, {"lr": 0.1})
    assert pickle.loads(pickle.dumps(lesson)) == lesson
    assert hash(pickle.loads(pickle.dumps(school))) == hash(school)


def test_the_digest_is_of_samples_pictures_and_how_they_are_seen(
    place: Place, tmp_path: Path
) -> None:
    school = replace(
        place.school, tasks=(str(shutil.copytree(place.root / "tell", tmp_path / "t")),)
    )
    at_home = open_workspace(replace(place.school, tasks=(place.school.tasks[2],))).tasks[0].digest
    assert reopened(school).tasks[0].digest == at_home, "a place is no content"
    assert reopened(replace(school, visual_tokens=16)).tasks[0].digest != at_home
    shutil.copy(tmp_path / "t/images/test0a.png", tmp_path / "t/images/train1a.png")
    shutil.copy(tmp_path / "t/images/test1a.png", tmp_path / "t/images/train2a.png")
    assert reopened(school).tasks[0].digest != at_home


def test_samples_of_unreadable_pictures_are_left_out_of_every_part(
    place: Place, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(place.root / "pairs", tmp_path / "pairs"))
    (data / "images" / "train3b.png").write_bytes(b"no picture")
    school = replace(place.school, tasks=(str(data),))
    with pytest.raises(DataError, match=r"train3b\.png"):
        reopened(school)
    (found,) = reopened(replace(school, skip_bad=True)).tasks
    assert {part: len(samples) for part, samples in found.parts.items()} == {**COUNTS, "train": 7}
    assert all("images/train3b.png" not in s.images for s in found.parts["train"])
    assert any("train3b.png" in note for note in found.notes)


def test_the_second_of_a_kind_has_its_folders_name(place: Place, tmp_path: Path) -> None:
    other = str(task(tmp_path / "birds", "caption", 4))
    opened = open_workspace(replace(place.school, tasks=(place.school.tasks[2], other)))
    assert [data.name for data in opened.tasks] == ["caption", "birds"]
    assert {data.task.name for data in opened.tasks} == {"caption"}
    third = str(task(tmp_path / "again" / "birds", "caption", 5))
    with pytest.raises(ConfigError, match=r"Two tasks are called birds\. Rename"):
        open_workspace(replace(place.school, tasks=(place.school.tasks[2], other, third)))


def test_a_task_that_is_none_is_refused_with_its_folder_before_any_picture(
    place: Place, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(place.root / "tell", tmp_path / "tell"))
    (data / "task.json").write_text('{"task": "captoin"}')
    school = replace(place.school, tasks=(str(data),), cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"tell: Unknown task 'captoin'\. Did you mean caption"):
        open_workspace(school)
    assert not (tmp_path / "cache").exists()


def test_pictures_need_vision_and_texts_do_not(place: Place, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"no image backbone of its own, and .*colours has images.*--vision-backbone",
    ):
        open_workspace(replace(place.school, vision_backbone=""))
    text = str(text_task(tmp_path / "text"))
    opened = open_workspace(replace(place.school, tasks=(text,), vision_backbone=""))
    assert opened.model.vision_width == 0
    assert opened.tasks[0].visuals is None


def test_texts_and_pictures_go_together(place: Place, tmp_path: Path) -> None:
    text = str(text_task(tmp_path / "text"))
    opened = open_workspace(replace(place.school, tasks=(place.school.tasks[2], text)))
    collator = Collator(opened.model, opened.tasks)
    rows = [(n, data.parts["train"][0]) for n, data in enumerate(opened.tasks)]
    batch = collator.batch(rows, np.random.default_rng(0))
    assert batch.inputs.absent is not None
    assert batch.inputs.absent.any(dim=1).tolist() == [False, True]


def test_processes_that_train_together_compute_a_share_of_the_pictures_each(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    school = replace(place.school, tasks=place.school.tasks[:1], cache=tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")

    def opened(rank: int, task: TextGeneration = school) -> BackboneVisuals:
        monkeypatch.setenv("RANK", str(rank))
        visuals = open_text(task).tasks[0].visuals
        assert isinstance(visuals, BackboneVisuals)
        return visuals

    def held(visuals: BackboneVisuals) -> list[set[str]]:
        shards = sorted(visuals.cache.root.glob("*/*.safetensors"))
        return [set(load_shard(shard)[0]) for shard in shards]

    first = opened(0)
    (own,) = held(first)
    assert {Share(1, 2).takes(image) for image in own} == {True}
    second = opened(1)
    names = opened_data(school.tasks[0]).images
    seen = [one(name).tokens for name in names for one in (first, second)]
    shards = held(first)
    assert len(shards) == 2
    assert not shards[0] & shards[1], "whoever reads the others' finds them stored"
    assert len(seen) == 2 * len(names)
    alone = opened(1, replace(school, cache=None))  # nobody else writes there
    assert sum(map(len, held(alone))) == sum(map(len, shards))


def test_what_is_no_folder_is_called_so(tmp_path: Path) -> None:
    for name in (str(tmp_path / "no"), f"vqa={tmp_path / 'no'}"):
        with pytest.raises(DataError, match="no: no such folder of data"):
            opened_data(name)
    with pytest.raises(DataError, match=r"(?s)holds no questions.*train\.jsonl.*task\.json"):
        opened_data(str(tmp_path))


def write_grids(root: Path, name: str, width: int) -> None:
    import h5py

    folders = {"vqa": "COCO", "nlvr": "nlvr"}
    folder = root / folders[name] / "clip_features" / "data_clip_RN101_att"
    folder.mkdir(parents=True)
    with h5py.File(folder / f"{name}0.h5", "w") as file:
        file[f"{name}0/features"] = np.ones((49, width), np.float16)


def test_stored_features_of_two_widths_are_not_one_models(place: Place, tmp_path: Path) -> None:
    tasks = []
    for name, width in (("vqa", 6), ("nlvr", 8)):
        write_grids(tmp_path / "features", name, width)
        folder = tmp_path / name
        folder.mkdir()
        line = {"image": f"{name}0", "question": "what", "answers": ["true"] * 10}
        (folder / "train.jsonl").write_text(json.dumps(line) + "\n")
        tasks.append(f"{name}={folder}")
    assert open_features("nlvr", tmp_path / "features").width == 8
    school = replace(place.school, vision_backbone="", features=tmp_path / "features")
    with pytest.raises(ConfigError, match=r"different widths: \[6, 8\]"):
        open_workspace(replace(school, tasks=tuple(tasks)))
    opened = open_workspace(replace(school, tasks=(tasks[0],), visual_tokens=9))
    assert opened.model.vision_width == 6
    assert opened.card["vision_backbone"] is None
    assert opened.vision_backbone is None
    assert opened.tasks[0].visuals("vqa0").tokens.shape == (9, 6)  # type: ignore[misc]


def test_a_run_with_trained_vision_looks_at_pictures(place: Place, tmp_path: Path) -> None:
    school = replace(place.school, tasks=(place.school.tasks[0],))
    settings = {"steps": 1, "batch_size": 2, "vision": "norms"}
    seen: list[str] = []

    class Watched(PixelSource):
        def _features(self, name: str):  # type: ignore[no-untyped-def]
            seen.append(name)
            return super()._features(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petiole.tasks.text.workspace.PixelSource", Watched)
        record = run(RunSpec(school, "vl-projection", tmp_path / "run", settings))
    assert len(seen) >= COUNTS["test"]
    frozen = run(
        RunSpec(school, "vl-projection", tmp_path / "frozen", {**settings, "vision": "frozen"})
    )
    assert record.ledger.trainable > frozen.ledger.trainable
    text = str(text_task(tmp_path / "text"))
    blind = replace(place.school, tasks=(text,), vision_backbone="")
    with pytest.raises(
        ConfigError, match=r"vision=norms trains an image backbone.*--vision-backbone"
    ):
        run(RunSpec(blind, "vl-adapter", tmp_path / "blind", settings))


def test_a_part_of_a_task_says_what_it_lacks() -> None:
    data = TaskData(find("vqa"), {"train": (), "val": (TextSample("1"),)}, called="birds")
    assert data.part("val") == (TextSample("1"),)
    for part in ("train", "test"):
        with pytest.raises(
            DataError, match=f"'birds' has no samples of the part '{part}', only of val"
        ):
            data.part(part)


@pytest.mark.parametrize("video", [False, True])
def test_features_that_are_given_are_stored_before_they_are_seen(video: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    asked: list[Any] = []

    class Stored:
        digest = "stored"

        def __init__(self, *given: Any, **more: Any) -> None:
            asked.append((given, more))

        def prepare(self, *given: Any, **more: Any) -> None:
            asked.append((given, more))

    monkeypatch.setattr(workspace_of, "StoredVisuals", Stored)
    monkeypatch.setattr(workspace_of, "is_video", lambda name: video and name == "tvqa")
    monkeypatch.setattr(workspace_of, "open_features", lambda *given: given)
    data: Any = SimpleNamespace(task="tvqa", images=("b", "a"), digest=lambda: "data")
    given = TextGeneration("m", (), features=Path("f"), visual_tokens=9, cache=Path("c"), quiet=True)  # fmt: skip
    found, visuals, digest = workspace_of._seen(data, given, None)
    assert (found, type(visuals), digest) == (data, Stored, "data:stored")
    shape = {"visual_tokens": None, "rows": 64} if video else {"visual_tokens": 9, "rows": None}
    assert asked == [((("tvqa", Path("f")),), {**shape, "cache": Path("c")}), ((("b", "a"),), {"quiet": True})]  # fmt: skip
    data.images = ()
    assert workspace_of._seen(data, given, None) == (data, None, "data")
    data.images, data.root = ("a",), "photos"
    with pytest.raises(ConfigError, match=r"^m has no image backbone of its own, and photos has images\."):  # fmt: skip
        workspace_of._seen(data, replace(given, features=None), None)


def test_tasks_of_one_kind_are_called_by_their_folders(tmp_path: Path) -> None:
    taken: set[str] = set()

    def called(task: str, folder: str) -> str:
        data: Any = SimpleNamespace(task=task, root=tmp_path / folder / "." / "x" / "..")
        return workspace_of._called(data, taken)

    assert [called("vqa", "a"), called("vqa", "b"), called("gqa", "b")] == ["vqa", "b", "gqa"]
    with pytest.raises(
        ConfigError, match=r"^Two tasks are called b\. Rename one of the folders\.$"
    ):
        called("vqa", "b")
    assert called("vqa", "c") == "c"


@pytest.mark.parametrize("scored", ["test", "val"])
def test_each_task_is_scored_and_its_test_part_counted_once(scored: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    told: list[Any] = []
    tasks = [SimpleNamespace(name=name, digest=digest, part=lambda part, name=name: [f"{name} {part}"] * 3, task=f"kind of {name}") for name, digest in (("a", "of a"), ("b", ""))]  # fmt: skip
    monkeypatch.setattr(run_of, "count_test_evaluation", lambda *given, **more: told.append((given, more)))  # fmt: skip
    monkeypatch.setattr(run_of.training, "answers", lambda *given, quiet: told.append((*given, quiet)) or given[2])  # fmt: skip
    monkeypatch.setattr(run_of, "write_predictions", lambda *given: {"m": given})
    run: Any = SimpleNamespace(
        chosen=SimpleNamespace(scored=scored), tasks=tasks, collator="collator", workspace=SimpleNamespace(task=SimpleNamespace(quiet=True))
    )  # fmt: skip
    found = TextRun.evaluate(run, "adapted", tmp_path)  # type: ignore[arg-type]
    samples = [[f"{name} {scored}"] * 3 for name in "ab"]
    assert found == {name: {"m": (tmp_path, name, f"kind of {name}", samples[n], n)} for n, name in enumerate("ab")}  # fmt: skip
    wanted: list[Any] = []
    for n, (name, digest) in enumerate((("a", "of a"), ("b", "b"))):
        if scored == "test":
            wanted.append(((tmp_path, digest, 3, name), {"once": True}))
        wanted.append(("adapted", "collator", n, samples[n], True))
    assert told == wanted


@pytest.mark.parametrize(("width", "tower", "shown"), [(3, None, True), (3, "tower", False), (0, None, False)])  # fmt: skip
def test_a_golden_input_shows_features_where_they_are_given(width: int, tower: Any, shown: bool) -> None:  # fmt: skip
    asked: list[Any] = []

    class Model(nn.Module):
        model = SimpleNamespace(config=SimpleNamespace(vocab_size=9), vision_width=width, device="cpu")  # fmt: skip
        vision_tower, head = tower, None

        def forward(self, *given: Any) -> Any:
            assert not self.training
            asked.append(given)
            return torch.arange(2 * 2 * 70).reshape(1, 4, 70)

    found = golden_scores(Model().train())  # type: ignore[arg-type]
    assert found.tolist() == [float(i) for i in range(3 * 70, 3 * 70 + 64)], "of the last place"
    [(inputs, labels, tasks)] = asked
    assert (inputs.ids.shape, inputs.mask.shape, labels.shape, tasks) == ((1, 8), (1, 8), (1, 2), (0,))  # fmt: skip
    assert inputs.mask.all()
    assert (None if inputs.visual is None else inputs.visual.shape) == ((1, 4, 3) if shown else None)  # fmt: skip
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, (2, 8))
    assert inputs.ids.tolist() == [ids[0].tolist()]
    assert labels.tolist() == [ids[1, :2].tolist()]
    if shown:
        wanted = rng.standard_normal((1, 4, 3)).astype(np.float32)
        assert np.array_equal(inputs.visual.numpy(), wanted)
