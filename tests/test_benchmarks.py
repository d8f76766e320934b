"""Benchmarks and examples name only what the library has: imports, commands, methods and settings. Nothing is trained."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from petiole.cli import app
from petiole.methods.registry import create

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted([*BENCHMARKS.rglob("*.py"), *(ROOT / "examples").glob("*.py")])
SHELL = sorted(BENCHMARKS.rglob("*.sh"))
TABLES = sorted(BENCHMARKS.rglob("*.toml"))

STUB = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0")" "$@" "" >> "$COMMANDS"\n'
"""Stands in for a program of a script: appends the program's name and its words, a line each, and an empty line."""


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of what a script imports of the library, wherever it does; the name is empty for a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        else:
            continue
        yield from (pair for pair in found if pair[0].split(".")[0] == "petiole")


@pytest.mark.parametrize("file", SCRIPTS, ids=name_of)
def test_every_import_resolves(file: Path) -> None:
    for module, name in imports(file):
        if name and not hasattr(import_module(module), name):
            import_module(f"{module}.{name}")  # a module that its package does not import
        elif not name:
            import_module(module)


def commands(file: Path, folder: Path) -> list[list[str]]:
    """The words of each command of petiole and python that a shell script gives, with all variables expanded."""
    shutil.copytree(BENCHMARKS, folder / "benchmarks")
    stubs = folder / ".venv" / "bin"  # a script may name its programs by this path
    stubs.mkdir(parents=True)
    for program in ("petiole", "python"):
        (stubs / program).write_text(STUB)
        (stubs / program).chmod(0o755)
    log = folder / "commands"
    path = os.pathsep.join([str(stubs), os.environ["PATH"]])
    subprocess.run(
        [
            folder / file.relative_to(ROOT),
            *(folder / name for name in ("first", "second", "third", "fourth")),
        ],
        cwd=folder,
        env={**os.environ, "PATH": path, "COMMANDS": str(log)},
        check=True,
    )
    return [block.split("\n") for block in log.read_text().strip("\n").split("\n\n")]


@pytest.mark.parametrize("file", SHELL, ids=name_of)
def test_every_command_of_a_shell_script_parses(file: Path, tmp_path: Path) -> None:
    found = commands(file, tmp_path)
    assert found
    for program, *words in found:
        if program == "python":
            assert (tmp_path / words[0]).is_file(), words
        else:
            app.parse_args(words, exit_on_error=False, print_error=False)
            tables = [b for a, b in pairwise(words) if a == "--table"]
            assert all((tmp_path / t).is_file() for t in tables if t.endswith(".toml")), words


@pytest.mark.parametrize("file", TABLES, ids=name_of)
def test_every_row_names_a_method_and_its_settings(file: Path) -> None:
    rows = tomllib.loads(file.read_text(encoding="utf-8"))["rows"]
    assert rows
    for row in rows:
        create(row["method"], row.get("settings", {}))


def script(path: str) -> ModuleType:
    """A script of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, BENCHMARKS / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_a_phase_is_what_the_phases_below_it_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 seconds in a function, 3 are another phase's and 1 of those a third's."""
    module = script("rivals/phases.py")
    times = iter([0.0, 2.0, 3.0, 4.0, 5.0, 10.0])  # of a, b, c; c, b, a
    monkeypatch.setattr(module.time, "process_time", lambda: next(times))
    monkeypatch.setattr(module, "PHASES", {"a": [], "b": [], "c": []})
    clock = module.Clock()
    c = clock.timed("c", lambda: "done")
    b = clock.timed("b", lambda: c())
    assert clock.timed("a", lambda: b())() == "done"
    assert clock.seconds == {"a": 7.0, "b": 2.0, "c": 1.0}


def test_every_function_of_a_phase_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("rivals/phases.py")
    monkeypatch.setattr(
        module, "setattr", lambda *_: None, raising=False
    )  # nothing is put in its place
    clock = module.Clock()
    for phase, places in module.PHASES.items():
        for place in places:
            clock.wrap(phase, place)


def test_what_a_costly_script_measured_is_kept_by_all_that_was_asked(tmp_path: Path) -> None:
    module = script("followups/kept.py")
    asked = {"run": "abc", "images": "def", "attack": "pgd 1/255"}
    assert module.kept(tmp_path, asked, lambda: {"right": [1, 0]}) == {"right": [1, 0]}
    for name in asked:
        other = {**asked, name: "another"}
        assert module.kept(tmp_path, other, lambda name=name: {"right": [name]})["right"] == [name]
    assert module.kept(tmp_path, asked, dict) == {"right": [1, 0]}


def test_contrasts_leave_the_first_runs_out_and_keep_two() -> None:
    module = script("contrasts.py")
    rows = {name: {"test": np.array(v)} for name, v in {"a": [9, 3, 5], "b": [0, 2, 1]}.items()}
    later = module.later(rows, 1)
    assert module.contrast(later, "a - b", "test").tolist() == [1, 4]
    assert module.contrast(module.later(rows, 0), "a - b", "test").tolist() == [9, 1, 4]
    for skip in (2, -1):
        with pytest.raises(SystemExit, match="0 to 1"):
            module.later(rows, skip)


def test_contrasts_name_the_scores_that_a_run_lacks() -> None:
    module = script("contrasts.py")
    scored = {"source": [0.1, 0.2, 0.3], "dark": [0.4, 0.5]}
    module.check_scored(Path("runs"), "coop", scored, ["source"], 3)
    lacking = r"runs: of the 3 runs of coop .* missing: 1 at dark, 3 at noisy\. .* --resume"
    with pytest.raises(SystemExit, match=lacking):
        module.check_scored(Path("runs"), "coop", scored, ["source", "dark", "noisy"], 3)


def test_the_tasks_of_words_share_no_word_and_no_sound_between_parts(tmp_path: Path) -> None:
    module = script("bart_g2p/run.py")
    letters = "____abdinst'-.ABDINSTo"
    symbols = module.Symbols(letters, "____abdinstæɑ")
    words = {a + b + c: a + "æ" + c for a in "bdnst" for b in "aio" for c in "bdnst"}
    words |= {word.upper(): sound for word, sound in words.items()}  # spelt alike but for capitals
    words |= {f"{a}{b}as": f"{a}ɑ{b}" for a in "bdnst" for b in "bdnst"}
    for accent in ("us", "gb"):
        said = {w: s if accent == "gb" else s.replace("ɑ", "ɑs") for w, s in words.items()}
        (tmp_path / f"{accent}_gold.json").write_text(json.dumps(said))
    say, accent, spell = module.tasks_of(tmp_path, symbols, 10)
    seen: dict[str, str] = {}
    for part, samples in say.parts.items():
        keys = [sample.key for sample in samples]
        assert keys
        assert all(len(key) == 4 for key in keys)  # those that are spelt or said as another are out
        for task in (accent, spell):
            assert [sample.key for sample in task.parts[part]] == keys
        for one in (
            *keys,
            *(s.text for s in accent.parts[part]),
            *(s.text for s in spell.parts[part]),
        ):
            assert seen.setdefault(one, part) == part
    assert len(say.parts["train"]) == 10
    sample = spell.parts["train"][0]
    assert symbols.decode(symbols(sample.key)) == sample.references[0]
    assert len({task.task.prefix for task in (say, accent, spell)}) == 3
