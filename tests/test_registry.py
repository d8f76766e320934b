"""Names are read from files: what is found, and what is refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from petiole.errors import ConfigError
from petiole.registry import Registry


def package(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, **files: str
) -> Registry[object]:
    """A registry over a package made of these files; its own object is ``THINGS`` of the package."""
    home = folder / name
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "__init__.py").write_text("")
    top = f'from petiole.registry import Registry\nTHINGS = Registry("thing", "{name}", "THINGS.register", "no.such", described=True)\n'
    (home / "__init__.py").write_text(top)
    for file, text in files.items():
        path = home / f"{file.replace('__', '/')}.py"
        path.write_text(f"from {name} import THINGS\n\n{text}")
    monkeypatch.syspath_prepend(str(folder))
    found: Registry[object] = importlib.import_module(name).THINGS
    return found


THINGS = '''
NAME = "by-constant"
other = """
@THINGS.register("in-a-text", "never")
"""

@THINGS.register("one", "the first")
@THINGS.register(
    "two",
    "in brackets (and a text with class and def )",
)
class Both: ...

@THINGS.register(NAME)
def by_constant(): ...
'''


def test_names_and_lines_are_read_without_importing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    things = package(
        monkeypatch,
        tmp_path,
        "things_read",
        deep__some=THINGS,
        last='@THINGS.register("z")\ndef z(): ...\nraise SystemExit',
    )
    assert {"one", "two", "by-constant", "z"} <= set(things.names())
    assert things.about("two") == "in brackets (and a text with class and def )"
    assert "things_read.deep.some" not in sys.modules
    assert things.find("one") is things.find("two")
    assert things.find("by-constant").__name__ == "by_constant"
    assert "things_read.last" not in sys.modules
    with pytest.raises(ConfigError, match=r"Unknown thing 'tow'. Did you mean two"):
        things.find("tow")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('@THINGS.register("on" + "e")\ndef f(): ...', "without a name that is written out"),
        ('for n in "ab":\n    THINGS.register(n)(print)', None),
        (
            'def f(): ...\nTHINGS.register("hidden")(f)',
            "under a name that is not written out",
        ),
    ],
)
def test_a_name_that_no_reader_can_see_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, words: str | None
) -> None:
    name = f"things_hidden_{abs(hash(text))}"
    things = package(monkeypatch, tmp_path, name, some=text)
    if words is None:  # things from elsewhere are whoever registers them's to answer for
        importlib.import_module(f"{name}.some")
        assert things.find("a") is print
        return

    def read_and_import() -> None:
        things.names()
        importlib.import_module(f"{name}.some")

    with pytest.raises(ConfigError, match=words):
        read_and_import()


def test_one_name_in_two_files_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = '@THINGS.register("same")\ndef f(): ...'
    things = package(monkeypatch, tmp_path, "things_twice", one=text, two=text)
    with pytest.raises(
        ConfigError, match=r"Two things are named 'same': in things_twice\.one and .*two"
    ):
        things.find("other")


FILES = """
import pathlib, sys
from petiole.methods.registry import METHODS, FAMILIES
from petiole.backbones.registry import FILES, FOLDERS, LOADERS
from petiole.backbones.vision.timm_families import FAMILIES as TIMM
from petiole.engine.executor import EXECUTORS
from petiole.engine.loggers import LOGGERS
for registry in (METHODS, FAMILIES, FILES, FOLDERS, LOADERS, TIMM, EXECUTORS, LOGGERS):
    read = set(registry.built_in)
    assert read, registry.kind
    for name in read:
        registry.find(name)
    assert read == set(registry._known), (registry.kind, read ^ set(registry._known))
"""


def test_what_is_read_is_what_importing_registers() -> None:
    done = subprocess.run([sys.executable, "-c", FILES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
