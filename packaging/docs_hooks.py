"""What the site has beside docs/: the README as its first page, the changelog, the reference, and the tutorial's output.

All of it is made at each build from the code and the files of the repository, so none of it can go stale.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository -> pages of the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add what is made."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in OUTSIDE.items()}
    made |= {
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "reference/python.md": python(),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Give fences the form that Markdown knows, and lead links to pages."""
    name = page.file.src_uri
    if name == "tutorial.md":
        markdown = with_output(markdown)
    markdown = re.sub(r"^```(\w+) file=(\S+)$", r'```\1 title="\2"', markdown, flags=re.M)
    markdown = re.sub(r"^```(\w+) no-run: .*$", r"```\1", markdown, flags=re.M)
    at_root = name in OUTSIDE.values()
    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", lambda m: _link(m[1], m[2], at_root), markdown)


def _link(text: str, target: str, at_root: bool) -> str:
    """To a page of the site; of what the site does not have, the name alone."""
    if "://" in target or target.startswith("#"):
        return f"[{text}]({target})"
    path, sign, anchor = target.partition("#")
    inside = path.removeprefix("docs/") if at_root else path
    place = (ROOT if at_root else ROOT / "docs") / path
    known = place.resolve().is_relative_to(ROOT / "docs") and place.is_file()
    own = OUTSIDE.get(os.path.relpath(place, ROOT))
    if not known and not own:
        return text if text == f"`{path}`" else f"{text} (`{os.path.relpath(place, ROOT)}`)"
    return f"[{text}]({own or inside}{sign}{anchor})"


def with_output(markdown: str) -> str:
    """The page with what each of its commands prints, run in a fresh folder."""
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "PETIOLE_CACHE": f"{place}/.cache", "COLUMNS": "100"}

        def run(block: re.Match[str]) -> str:
            said = ""
            for line in block[1].replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if not words:
                    continue
                assert words[0] == "petiole", line
                done = subprocess.run(
                    [sys.executable, "-m", *words],
                    cwd=place,
                    env=environment,
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    raise RuntimeError(f"{line}\n{done.stderr}")
                said += done.stdout.replace(place, "")
            return f"{block[0]}\n\n```text\n{said.rstrip()}\n```"

        return re.sub(r"^```bash\n(.*?)^```$", run, markdown, flags=re.M | re.S)


def commands() -> str:
    """Every verb with its options, from their docstrings."""
    from petiole.cli import app

    text = app.generate_docs(output_format="markdown")
    return re.sub(
        r"## Table of Contents\n\n.*?\n\n(?=\*\*)", "", text, count=1, flags=re.S
    ).replace("# petiole\n", "# Commands\n", 1)


def python() -> str:
    """Every public name, by mkdocstrings."""
    import petiole

    lines = [
        "# Python\n",
        "Every command is a function; every option of the command line is a keyword.\n",
    ]
    for name in sorted(petiole.__all__, key=str.lower):
        found = getattr(petiole, name)
        if name != "__version__" and not isinstance(found, type(sys)):
            lines.append(f"::: {found.__module__}.{found.__qualname__}\n")
    return "\n".join(lines)


def settings() -> str:
    """Every method's settings: default, choices, meaning; and where its training differs from the common one."""
    from petiole.methods.recipe import Recipe
    from petiole.methods.registry import create, methods

    common = dataclasses.asdict(Recipe())
    lines = [
        "# Settings",
        "`--set NAME=VALUE`, or `settings={...}` in Python.",
        "## Of every method that is trained",
        *_table(Recipe, common),
        "## Of methods",
    ]
    for name, entry in sorted(methods().items()):
        if not entry.cls.__module__.startswith("petiole."):
            continue
        flat = dataclasses.asdict(create(name))
        recipe = flat.pop("recipe")
        lines += [f"### {name}", *_table(entry.cls, flat)]
        if other := [f"`{k}={v}`" for k, v in recipe.items() if common.get(k) != v]:
            lines.append(f"Its training differs from the common one in {', '.join(other)}.")
    return "\n\n".join(lines) + "\n"


def _table(cls: type, values: Mapping[str, Any]) -> Iterator[str]:
    hints, meanings = get_type_hints(cls), _meanings(cls)
    rows = [
        f"| `{name}` | `{value!r}` | {_choices(hints.get(name))} | {meanings.get(name, '')} |"
        for name, value in values.items()
    ]
    if rows:
        yield "\n".join(["| name | default | takes | meaning |", "|---|---|---|---|", *rows])


def _choices(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(hint))
    return getattr(hint, "__name__", str(hint)).replace("|", "or")


def _meanings(cls: type) -> dict[str, str]:
    """Name -> what the docstrings of a class and its bases say of it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        listed = re.split(r"\n\s*Attributes:\n", base.__doc__ or "")[-1]
        for names, text in re.findall(
            r"^        ([\w, ]+): ((?:.+\n?)(?:          +.+\n?)*)", listed, re.M
        ):
            told = " ".join(text.split()).replace("|", "\\|")
            found |= dict.fromkeys(names.split(", "), told)
    return found
