"""The examples run on tiny data, train something, and leave what they promise."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

import petiole
from petiole.data.synthetic.scenes import write_task

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "folder_to_adapter.ipynb"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colours, eight pictures each."""
    whole = write_task(tmp_path_factory.mktemp("drawn") / "all", "colours", train=8, test=0)
    folder = tmp_path_factory.mktemp("photos")
    for name in ("red", "green", "blue"):
        shutil.copytree(whole / "train" / name, folder / name)
    return folder


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PETIOLE_CACHE", str(tmp_path / "cache"))


def example(name: str, needs: str = "") -> ModuleType:
    if needs:
        pytest.importorskip(needs)
    return importlib.import_module(name)


def test_an_own_loop_learns_and_its_adapter_opens(photos: Path) -> None:
    assert example("own_loop").main(str(photos), "out", epochs=4) > 0.6
    assert petiole.load_adapter("out").classes == ("blue", "green", "red")


def test_the_trainer_of_hugging_face(photos: Path) -> None:
    assert example("hf_trainer").main(str(photos), "out", epochs=4) < 1.0
    assert petiole.load_adapter("out/adapter").method == "lora-qkv"


def test_lightning_fabric(photos: Path) -> None:
    assert example("fabric", "lightning_fabric").main(str(photos), "out", epochs=4) < 1.0
    assert petiole.load_adapter("out").method == "ssf"


def test_a_data_set_of_hugging_face(photos: Path) -> None:
    assert example("hf_datasets", "datasets").main(str(photos), "out") > 0.6
    assert petiole.Adapter.load("out").classes == ["blue", "green", "red"]


def test_labelled_arrays() -> None:
    assert example("arrays").main("out") > 0.5


def test_the_reduced_rank_table(capsys: pytest.CaptureFixture[str]) -> None:
    example("reduced_rank").main()
    assert "threshold" in capsys.readouterr().out


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda f: f.name)
def test_an_example_fits_on_a_screen(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 60


def test_the_notebook_runs_from_its_first_cell_to_its_last() -> None:
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    assert all(cell["outputs"] or cell["execution_count"] for cell in cells), "execute it first"
    namespace: dict[str, object] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), namespace)
    adapter = petiole.Adapter.load(Path("runs/colours"))
    assert adapter.classes == namespace["classes"]
