"""The record: complete, checked by sums, and silent about places."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from petiole.commands.inspect import inspect
from petiole.data.dataset import Dataset
from petiole.engine.record import (
    LOG,
    TEST_EVALUATIONS,
    Record,
    RunRequest,
    count_test_evaluation,
    evaluations_of,
    read_record,
)
from petiole.engine.run import RunSpec, run
from petiole.engine.task import open_workspace
from petiole.errors import RunError
from petiole.files import packed, read_tensors, sha256, unpacked, write_tensors
from petiole.report.runs import read_run
from petiole.tasks.classification.predictions import TENSORS, read_predictions
from petiole.tasks.classification.task import VECTORS
from petiole.tasks.classification.workspace import Classification, Subset


@pytest.fixture(scope="module")
def done(bench: Classification, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Record]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = {"steps": 12, "views": 0}
    job = RunSpec(bench, "cls-residual-lora", folder, settings, Subset(3, vectors=True))
    return job, run(job)


def test_seconds_are_of_this_run_and_no_more_than_it_took(
    bench: Classification, tmp_path: Path
) -> None:
    task = replace(bench, cache=tmp_path / "cache")
    settings = {"steps": 12, "views": 0}
    job = RunSpec(task, "cls-residual-lora", tmp_path / "run", settings, Subset(3))
    begun = time.perf_counter()
    costs = run(job).costs
    elapsed = time.perf_counter() - begun
    parts = (costs.feature_seconds, costs.train_seconds, costs.test_seconds)
    assert min(parts) > 0
    assert sum(parts) <= elapsed


def test_the_record_comes_back_from_json(done: tuple[RunSpec, Record]) -> None:
    job, record = done
    assert read_record(job.folder) == record
    assert Record.model_validate_json(record.model_dump_json()) == record
    assert record.selection == "last step"
    assert record.id == record.request.digest[:16]
    assert record.request.data.samples == {"source": 18, "train": 18 + 9, "test": 15}


def test_every_file_has_its_checksum(done: tuple[RunSpec, Record]) -> None:
    job, record = done
    assert set(record.files) >= {
        "request.json",
        "split.csv",
        "metrics.jsonl",
        "predictions.csv",
        "predictions.safetensors",
        "adapter/adapter.json",
        "adapter/adapter.safetensors",
    }
    for name, digest in record.files.items():
        assert sha256(job.folder / name) == digest


@pytest.mark.parametrize("name", [LOG, TENSORS])
def test_a_file_that_is_not_the_recorded_one_is_not_read(
    done: tuple[RunSpec, Record], tmp_path: Path, name: str
) -> None:
    shutil.copytree(done[0].folder, tmp_path / "run")
    assert len(read_run(tmp_path / "run").log) > 1
    file = tmp_path / "run" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rstrip().rfind(b"\n") + 1])  # of a log, a line less
    run = read_run(tmp_path / "run")
    with pytest.raises(RunError, match=rf"{name} is missing or not the one"):
        _ = run.log, run.predictions
    assert inspect(str(tmp_path / "run")).facts["files"] == f"changed or missing: {name}"
    file.write_bytes(whole)
    assert inspect(str(tmp_path / "run")).facts["files"] == "as they were written"


def test_names_are_not_in_the_header_which_has_no_room_for_millions(tmp_path: Path) -> None:
    for count in (1, 5_000):
        names = [f"ä\udcff{i:062x}" for i in range(count)]
        write_tensors(tmp_path / "names", {"names": packed(names)})
        assert unpacked(read_tensors(tmp_path / "names")[0]["names"]) == names
        assert int.from_bytes((tmp_path / "names").read_bytes()[:8], "little") < 300


def test_scores_follow_from_the_predictions(done: tuple[RunSpec, Record]) -> None:
    job, record = done
    kept = read_predictions(job.folder)
    right = (kept.probabilities.argmax(1) == kept.labels).double().mean()
    assert record.main["accuracy"] == pytest.approx(float(right))
    torch.testing.assert_close(kept.probabilities.sum(1), torch.ones(15))
    lines = (job.folder / "predictions.csv").read_text().splitlines()
    assert lines[0] == "path,sha256,label,prediction,confidence"
    assert len(lines) == 16
    assert [line.split(",")[1] for line in lines[1:]] == kept.ids


def test_the_test_set_was_opened_once(done: tuple[RunSpec, Record]) -> None:
    job, record = done
    assert record.test_evaluations == 1
    rows = [json.loads(r) for r in (job.folder / TEST_EVALUATIONS).read_text().splitlines()]
    assert [(r["samples"], r["why"]) for r in rows] == [(15, "end of training")]
    assert rows[0]["test"] == record.request.data.digests["test"]


def test_evaluations_of_the_test_part_are_counted_by_content(
    done: tuple[RunSpec, Record], tmp_path: Path
) -> None:
    test = open_workspace(done[0].task).shift.test
    few = test.select(range(4))

    def count(folder: Path, data: Dataset, why: str) -> int:
        return count_test_evaluation(folder, data.digest(), len(data), why)

    assert [count(tmp_path, test, "a") for _ in range(3)] == [1, 2, 3]
    assert count(tmp_path, few, "b") == 1
    with pytest.raises(RunError, match="cannot be noted"):
        count(tmp_path / "absent", test, "c")


def test_vectors_before_and_after_are_kept(done: tuple[RunSpec, Record]) -> None:
    from safetensors.torch import load_file

    kept = load_file(done[0].folder / VECTORS)
    assert kept["before"].shape == kept["after"].shape == (18 + 15, 1280)
    assert int(kept["is_target"].sum()) == 15
    assert not torch.equal(kept["before"], kept["after"])


def test_moving_the_images_leaves_the_request_as_it_was(
    done: tuple[RunSpec, Record], tmp_path: Path
) -> None:
    job, record = done
    moved = tmp_path / "elsewhere"
    shutil.copytree(job.task.images, moved)
    bench = replace(job.task, images=moved)
    again = run(replace(job, task=bench, folder=tmp_path / "run"))
    assert again.request.digest == record.request.digest
    assert again.files["adapter/adapter.safetensors"] == record.files["adapter/adapter.safetensors"]


@pytest.mark.parametrize(
    ("part", "field", "value", "counts"),
    [
        ("backbone", "weights", "/other/place", False),
        ("backbone", "name", "/other/folder", False),
        ("data", "notes", ["x"], False),
        ("backbone", "fingerprint", "0" * 64, True),
        ("backbone", "image_size", 64, True),
        ("data/digests", "test", "0" * 64, True),
        ("data", "split_seed", 3, True),
    ],
)
def test_the_digest_is_of_contents(
    done: tuple[RunSpec, Record], part: str, field: str, value: object, counts: bool
) -> None:
    request = done[1].request
    changed = request.model_dump(mode="json")
    place = changed
    for name in part.split("/"):
        place = place[name]
    assert field in place
    place[field] = value
    changed["settings"] = dict(
        reversed(changed["settings"].items())
    )  # in whatever order they are said
    assert (RunRequest.model_validate(changed).digest != request.digest) == counts


@pytest.mark.parametrize(
    ("method", "selection"), [("ridge", "solved"), ("linear-probe", "as initialised")]
)
def test_the_record_says_which_model_was_kept(
    done: tuple[RunSpec, Record], tmp_path: Path, method: str, selection: str
) -> None:
    job = replace(
        done[0],
        method=method,
        settings={"steps": 0},
        folder=tmp_path / "run",
        options=Subset(3),
    )
    assert run(job).selection == selection


def test_without_source_the_target_is_enough(done: tuple[RunSpec, Record], tmp_path: Path) -> None:
    bench = replace(done[0].task, source=None)
    record = run(replace(done[0], task=bench, folder=tmp_path / "run"))
    assert record.request.data.digests.keys() == {"train", "test"}
    assert "source" not in record.request.data.samples


def test_random_state_is_untouched_by_a_run(done: tuple[RunSpec, Record], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    run(replace(done[0], folder=tmp_path / "run", settings={"steps": 2, "views": 0}))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_incomplete_and_damaged_records_are_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"record.json is missing.*--resume"):
        read_record(tmp_path)
    (tmp_path / "record.json").write_text('{"id": 1}')
    with pytest.raises(RunError, match="is damaged"):
        read_record(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_with_and_without_a_cache_the_run_is_the_same(
    done: tuple[RunSpec, Record], tmp_path: Path, dtype: str
) -> None:
    """Same weights up to rounding, same predictions."""
    settings = {"steps": 6, "views": 1, "adapter_dropout": 0.0}
    kept = []
    for name, cache in (("cached", tmp_path / "cache"), ("live", None)):
        bench = replace(done[0].task, cache=cache, dtype=dtype)
        run(
            replace(
                done[0], task=bench, folder=tmp_path / name, settings=settings, options=Subset(3)
            )
        )
        kept.append(read_predictions(tmp_path / name))
    assert kept[0].ids == kept[1].ids
    torch.testing.assert_close(kept[0].probabilities, kept[1].probabilities, rtol=1e-3, atol=1e-4)


def test_a_torn_line_swallows_nothing_and_is_named(tmp_path: Path) -> None:
    for why in "ab":
        count_test_evaluation(tmp_path, "t", 4, why)
    with (tmp_path / TEST_EVALUATIONS).open("a") as file:
        file.write('{"when": "2026')  # killed there
    with pytest.warns(UserWarning, match=rf"{TEST_EVALUATIONS}, line 3: left unfinished"):
        assert count_test_evaluation(tmp_path, "t", 4, "c") == 3
    file = tmp_path / TEST_EVALUATIONS
    file.write_text(file.read_text().replace('"test": "t"', '"test": "u"', 1))
    with pytest.raises(RunError, match=rf"{TEST_EVALUATIONS} is damaged: line 1: .*changed since"):
        evaluations_of(tmp_path)


def test_a_run_that_was_killed_while_it_was_scored_counts_once(tmp_path: Path) -> None:
    for _ in range(2):
        assert count_test_evaluation(tmp_path, "t", 4, "end of training", once=True) == 1
    assert count_test_evaluation(tmp_path, "other", 4, "end of training", once=True) == 1
    assert count_test_evaluation(tmp_path, "t", 4, "eval") == 2


def test_stray_files_are_swept_and_not_recorded(
    done: tuple[RunSpec, Record], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    stray = (
        ".tmp-1-record.json",
        ".tmpJNWBAd",
        "adapter/.tmp-2-adapter.json",
    )  # one of safetensors' own
    for name in (*stray, "adapter/notes.txt"):
        (folder / name).write_text("x")
    record = run(replace(done[0], folder=folder))
    assert not list(folder.rglob(".tmp*"))
    assert (folder / "adapter/notes.txt").read_text() == "x"
    assert set(record.files) == set(done[1].files)
