"""Docstrings describe arguments that are there: a name that was changed in the signature is changed in the text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import petiole

SOURCE = Path(petiole.__file__).parent
ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*): ", re.MULTILINE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def described(docstring: str) -> list[str]:
    """Names in the section Args; several may share a line."""
    body = re.search(r"^Args:\n((?:    .*\n?|\n)*)", docstring, re.MULTILINE)
    entries = ENTRY.findall(body.group(1)) if body else []
    return [name.strip(" *") for entry in entries for name in entry.split(",")]


def arguments(function: Function) -> set[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in every if argument is not None}


def stale(source: str) -> Iterator[str]:
    """Names that a docstring describes and the signature (of a class, its ``__init__``) lacks."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            made = [n for n in node.body if isinstance(n, Function) and n.name == "__init__"]
        elif isinstance(node, Function):
            made = [node]
        else:
            continue
        for function in made:
            for name in described(ast.get_docstring(node) or ""):
                if name not in arguments(function):
                    yield f"line {node.lineno}: {node.name} has no {name}"


def test_every_described_argument_is_in_the_signature() -> None:
    found = [
        f"{file.relative_to(SOURCE)}, {line}"
        for file in sorted(SOURCE.rglob("*.py"))
        for line in stale(file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_a_stale_name_is_found() -> None:
    text = '"""Do.\n\n    Args:\n        mine, theirs: two.\n            go on: with this.\n        old: gone.\n\n    Returns:\n        new: no argument.\n    """'
    source = f"def f(mine, theirs):\n    {text}\n\nclass C:\n    {text}\n    def __init__(self, mine, *, old): ..."
    assert list(stale(source)) == ["line 1: f has no old", "line 13: C has no theirs"]
