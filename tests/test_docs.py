"""The pages run: every block of every page, in order, in a fresh folder.

A fence says what its block is:

    ```bash                 commands. `petiole ...` runs in this process; all else in a shell
    ```bash no-run: why     only parsed, for the stated reason
    ```python               shares one namespace with the other blocks of its page
    ```python file=a/b.py   written to the page's folder, which Python imports from; so are toml and json
    ```text                 output, formulas, pictures

So that pages take seconds, ``SHORTER`` appends options to commands that do not state them: fewer steps, seeds and
samples; of a long list of values only some are tried (``FEWER``), and numbers that a page states are capped (``MOST``).
Nothing else is changed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import invalidate_caches
from itertools import pairwise
from pathlib import Path

import pytest

from petiole.backbones.registry import FILES, FOLDERS, LOADERS
from petiole.backbones.vision.timm_families import FAMILIES as TIMM
from petiole.cli import app, main
from petiole.engine import task
from petiole.engine.executor import EXECUTORS
from petiole.methods.registry import FAMILIES, METHODS, settable

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
QUICK = {"README.md", "design.md", "extending.md", "data.md", "methods.md"}
"""Pages that every test run runs; the others are marked slow."""
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "python", "text", "toml", "json", "mermaid"}

LITTLE = "--set steps=2 views=0"
QUIET = f"--quiet {LITTLE}"  # what is announced is timed, which no page is about
SHORTER = {
    "fit": QUIET,
    "compare": f"{QUIET} --split-seeds 2 --shots 3",
    "sweep": f"{LITTLE} --seeds 2",
    "transfer": f"{LITTLE} --seeds 2",
    "generalise": f"{LITTLE} --seeds 2",
    "few-shot": f"{LITTLE} --seeds 2",
    "continual": f"{LITTLE} --seeds 2",
    "multitask": f"{LITTLE} --seeds 2",
    "synthesize": "--train 8 --test 3",
}
"""Verb -> options, each appended where a command does not state it."""
REPEATED = {"--set"}
FEWER = {"--values": 2, "--fractions": 2}
"""Option -> how many of its values a page needs to try, evenly spaced from the first to the last."""
MOST = {"--seeds": 2, "--split-seeds": 2, "--train": 6, "--test": 3, "--trials": 2, "steps": 4}
"""Option, or key of --set -> the largest number that a page needs; what is no number stays."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the rest of its info string, its text and the line it starts in."""

    language: str
    info: str
    text: str
    line: int

    @property
    def runs(self) -> bool:
        return not self.info.startswith("no-run")

    def commands(self) -> list[list[str]]:
        """Words of each command, comments gone and continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, _, info = match[1].strip().partition(" ")
        found.append(Block(language, info.strip(), match[2], text[: match.start()].count("\n") + 2))
    return found


def shortened(words: list[str]) -> list[str]:
    """A command of petiole with fewer values, and with the options of ``SHORTER`` that it does not state."""
    for option, most in FEWER.items():
        if option in words:
            start = words.index(option) + 1
            end = next((i for i in range(start, len(words)) if words[i][:2] == "--"), len(words))
            values = words[start:end]
            if len(values) > most:
                kept = [values[i * (len(values) - 1) // (most - 1)] for i in range(most)]
                words = [*words[:start], *kept, *words[end:]]
    if "--like" in words and "--backbone" not in words:
        words = [*words, "--backbone", "petiole/tiny-vit"]  # which is timed there
    words = [capped(before, word) for before, word in zip(["", *words], words, strict=False)]
    extra = shlex.split(SHORTER.get(words[0], ""))
    if words[0] == "fit" and "--method" not in words:
        extra = ["--quiet"]  # the choice takes no settings, and trains nothing
    starts = [i for i, word in enumerate(extra) if word.startswith("--")]
    for start, end in pairwise([*starts, len(extra)]):
        option, values = extra[start], extra[start + 1 : end]
        if option in REPEATED:
            stated = {w.partition("=")[0] for w in words}
            values = [v for v in values if v.partition("=")[0] not in stated and used(words, v)]
            words = [*words, option, *values] if values else words
        elif option not in words:
            words = [*words, option, *values]
    return words


def used(words: list[str], setting: str) -> bool:
    """Whether the one method that a command names reads a setting; tables give each row what it reads."""
    if words[0] != "fit" or "--method" not in words:
        return True
    return setting.partition("=")[0] in settable(words[words.index("--method") + 1])


def capped(before: str, word: str) -> str:
    """A word of a command, its number no larger than a page needs; ``before`` stands before it."""
    key, sign, value = word.rpartition("=")
    most = MOST.get(key if sign else before)
    return f"{key}{sign}{min(int(value), most)}" if most and value.isdecimal() else word


def run_petiole(words: list[str]) -> None:
    """Run a command in this process; it must end well."""
    told, code = io.StringIO(), None
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(shortened(words))
        except SystemExit as end:
            code = end.code
    assert not code, f"petiole {shlex.join(words)} ended with {code}:\n{told.getvalue()}"


def install(folder: Path) -> None:
    """What ``pip install --editable .`` leaves for importlib.metadata, without building anything."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    place = folder / f"{project['name']}-{project['version']}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n")
    invalidate_caches()


def run_command(words: list[str], folder: Path) -> None:
    if words[0] == "petiole":
        run_petiole(words[1:])
    elif words[:2] == ["pip", "install"]:
        install(folder)
    else:
        words = [sys.executable, *words[1:]] if words[0] == "python" else words
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(words)}:\n{done.stderr}"


@pytest.fixture
def fresh(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder of the page's own, one feature cache for all pages, and registries as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PETIOLE_CACHE", str(tmp_path_factory.getbasetemp() / "docs-cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    registries = [METHODS, FAMILIES, LOADERS, FOLDERS, FILES, TIMM, EXECUTORS]
    before = {id(registry): set(registry._known) for registry in registries}
    yield tmp_path
    for (
        registry
    ) in registries:  # what is built in and was first used here stays: it is imported once
        for name in set(registry._known) - before[id(registry)] - set(registry.built_in):
            del registry._known[name]
    for kind, adapter in list(task._ADAPTERS.items()):
        if not adapter.__module__.startswith("petiole."):
            del task._ADAPTERS[kind]
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]
    task.forget_workspaces()


def run_page(page: Path, folder: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.info.startswith("file="):
            file = folder / block.info.removeprefix("file=")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        elif not block.runs:
            continue
        elif block.language == "bash":
            for words in block.commands():
                try:
                    run_command(words, folder)
                except AssertionError as error:
                    raise AssertionError(f"{where}: {error}") from None
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, where, "exec"), namespace)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page.name in QUICK else pytest.mark.slow, id=page.name)
        for page in PAGES
        if any(b.runs and b.language in ("bash", "python") for b in blocks(page))
    ],
)
def test_the_page_runs(page: Path, fresh: Path) -> None:
    run_page(page, fresh)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0, f"{page.name} has a fence that nothing closes"
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: say what the block is: {sorted(LANGUAGES)}"
        if not block.runs:
            assert re.match(r"no-run: \S.{9,}", block.info), f"{where}: say why it does not run"
        if block.language == "json":
            json.loads(block.text)
    outside = FENCE.sub("", text)
    indented = re.findall(r"\n\n    (\S.*)", outside)
    assert not indented, f"{page.name}: fence what is indented: {indented}"


def parsed() -> list[tuple[str, ...]]:
    """Every command of petiole in the pages: in blocks, whether they run or not, and within sentences."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            if block.language == "bash":
                lines = (w[: w.index(">")] if ">" in w else w for w in block.commands())
                found += [
                    tuple(w[w.index("petiole") + 1 :])
                    for w in lines
                    if "petiole" in w and "--config" not in w  # a file gives the rest
                ]
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        # A verb alone, in a sentence, is a name and no command line.
        for line in re.findall(r"`petiole ([^`\n]+ [^`\n]+)`", text):
            found.append(tuple(shlex.split(line.split(" | ")[0])))
    return sorted(set(found))


@pytest.mark.parametrize("words", parsed(), ids=" ".join)
def test_every_command_parses(words: tuple[str, ...]) -> None:
    app.parse_args([w for w in words if w != "--json"], exit_on_error=False, print_error=False)


def test_the_site_has_every_page_once() -> None:
    """mkdocs.yml is read as text: mkdocs itself is in the extra docs, which tests do without."""
    named = re.findall(r"(\S+\.md)\b", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])
    made = {
        "index.md",
        "README.md",
        "changelog.md",
        *(n for n in named if n.startswith("reference/")),
    }
    pages = [name for name in named if name not in made]
    assert sorted(pages) == sorted(page.name for page in PAGES if page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_options_are_appended_only_where_a_command_is_silent() -> None:
    words = shortened(shlex.split("fit x --method cosine --set lr=1 views=2"))
    assert words == shlex.split("fit x --method cosine --set lr=1 views=2 --quiet --set steps=2")
    compared = shortened(["compare", "x", "--split-seeds", "3"])
    assert compared[4:] == shlex.split("--quiet --set steps=2 views=0 --shots 3")
    assert shortened(["report", "x"]) == ["report", "x"]
    assert shortened(shlex.split("report x --set steps=60 lr=9 --trials 7")) == shlex.split(
        "report x --set steps=4 lr=9 --trials 2"
    )
    assert shortened(["fit", "x"]) == ["fit", "x", "--quiet"]
    swept = shortened(
        shlex.split("sweep rank x --values 1 2 4 8 16 --seeds 3 --fractions 0.1 1")
    )  # seeds are capped
    assert shlex.join(swept).startswith(
        "sweep rank x --values 1 16 --seeds 2 --fractions 0.1 1 --set"
    )


def test_a_page_that_fails_is_told_with_its_line(fresh: Path) -> None:
    page = fresh / "page.md"
    page.write_text("text\n\n```bash\npetiole report nowhere\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:4: petiole report nowhere ended with 1"):
        run_page(page, fresh)
    page.write_text("```python\nx = 1\n```\n\n```python\ny = x + undefined\n```\n")
    with pytest.raises(NameError):
        run_page(page, fresh)
