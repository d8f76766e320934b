"""Every option of the command line is a keyword of its verb, and the other way round."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import petiole
from petiole.cli import VERBS, app
from petiole.commands.options import (
    CodebookTaskOptions,
    ImageOptions,
    ModelOptions,
    TextTaskOptions,
)
from petiole.commands.tasks import USES, check_used
from petiole.commands.verb import keywords
from petiole.errors import ConfigError

GROUPS = (ModelOptions, ImageOptions, TextTaskOptions, CodebookTaskOptions)
METHODS = {
    "classification": "lora-qkv",
    "multilabel": "ridge",
    "regression": "ridge",
    "segmentation": "ridge",
    "text": "vl-adapter",
    "codebook": "craft",
}


def function_of(verb: str) -> Any:
    name = {"eval": "evaluate"}.get(verb, verb.replace("-", "_"))
    assert name in dir(petiole)
    return getattr(import_module(f"petiole.commands.{name}"), name)


def arguments_of(verb: str) -> Iterator[Any]:
    """Every option and argument that the command line knows."""
    return (one for one in app[verb].assemble_argument_collection() if not one.children)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_a_keyword_and_every_keyword_an_option(verb: str) -> None:
    known = {argument.field_info.name for argument in arguments_of(verb)}
    assert known == set(keywords(function_of(verb)))


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_is(verb: str) -> None:
    documented = inspect.unwrap(function_of(verb)).__doc__
    for argument in arguments_of(verb):
        name = argument.field_info.name
        told = argument.parameter.help or re.search(
            rf"^ +(\w+, )*{name}(, \w+)*: .", documented, re.M
        )
        assert told, name


@pytest.mark.parametrize(
    ("kind", "group", "name"),
    [
        (kind, group, f.name)
        for kind, uses in USES.items()
        for group in GROUPS
        for f in fields(group)
        if f.name not in uses
    ],
)
def test_an_option_that_nothing_uses_is_an_error(kind: str, group: Any, name: str) -> None:
    given = replace(group(), **{name: "given"})
    with pytest.raises(ConfigError, match=rf"--{name.replace('_', '-')} is for .*Leave it out"):
        check_used(kind, METHODS[kind], given)
    check_used(kind, METHODS[kind], group())


def test_an_unknown_keyword_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Unknown option of fit 'bakbone'.*backbone"):
        petiole.fit(tmp_path, bakbone="petiole/tiny-vit")
    with pytest.raises(ConfigError, match="not both"):
        petiole.fit(tmp_path, model=ModelOptions(), backbone="petiole/tiny-vit")
