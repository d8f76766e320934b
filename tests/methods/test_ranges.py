"""Settings out of range are refused as soon as they are stated, whichever method they are of."""

from __future__ import annotations

import re
from dataclasses import fields
from math import inf, nan

import pytest

from petiole.errors import ConfigError
from petiole.methods.registry import METHODS, RECIPE_FIELDS, configure, create, settings_of
from petiole.methods.test_time.base import TEST_TIME, make_test_time

SIGNED = {"scale", "lora_scale", "alpha"}
"""Factors of what is added: a negative one takes it away."""

UNBOUNDED = {"seed", "scale", "affinity"}


def numeric(name: str) -> list[str]:
    own = settings_of(create(name)).items()
    return [key for key, value in own if type(value) in (int, float) and key not in RECIPE_FIELDS]


def may_be_none(name: str) -> set[str]:
    """Sizes whose 0 leaves a part out."""
    return {"rank"} if name.startswith("vl-compacter") else set()


@pytest.mark.parametrize("name", METHODS.names())
def test_no_method_takes_a_number_that_means_nothing(name: str) -> None:
    method = create(name)
    for key in numeric(name):
        whole = isinstance(getattr(method, key), int)
        wrong = [-1, True] if whole else [nan, inf, -inf, True, *([] if key in SIGNED else [-1.0])]
        for value in wrong:
            with pytest.raises(
                ConfigError, match=rf"^Bad settings for {re.escape(name)}: .*{key}="
            ):
                configure(method, {key: value}, name)


@pytest.mark.parametrize("value", [-1, nan, inf, "inf", True])
def test_no_recipe_does(value: float | str) -> None:
    method = create("linear-probe")
    numbers = {f.name: getattr(method.recipe, f.name) for f in fields(method.recipe)}
    numbers = {key: number for key, number in numbers.items() if type(number) in (int, float)}
    assert len(numbers) > 25
    for key in numbers:
        said = key if value is True else f"linear-probe: {key}="  # what is 1 may need another
        with pytest.raises(ConfigError, match=said):
            configure(method, {key: value}, "linear-probe")


@pytest.mark.parametrize("name", TEST_TIME.names())
def test_nor_does_a_way_to_adapt_at_test_time(name: str) -> None:
    made = make_test_time(name)
    for field in fields(made):
        if type(getattr(made, field.name)) in (int, float):
            for value in (nan, inf, *([] if field.name in UNBOUNDED else [-1])):
                with pytest.raises(ConfigError, match=field.name):
                    make_test_time(name, {field.name: value})


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("lora-qkv", {"rank": 0}),
        ("lora-qkv", {"dropout": 1.0}),
        ("adaptertune", {"drop_path": 1.0}),
        ("cls-residual-lora", {"attention_heads": 0}),
        ("cls-residual-lora", {"temperature": 0}),
        ("coop", {"context": 0}),
        ("coop+ogen", {"warm_up": 1.1}),
        ("coop+textrefiner", {"cache_momentum": 1.1}),
        ("tip-adapter", {"beta": 0}),
        ("knn", {"temperature": 0}),
        ("glora-search", {"mutation": 1.5}),
        ("glora-search", {"mutation": 0}),
        ("vl-adapters", {"tasks": 0}),
    ],
)
def test_bounds_are_outside_where_they_mean_nothing(name: str, stated: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(stated))):
        create(name, stated)


def test_bounds_that_mean_something_are_inside() -> None:
    for name, stated in (
        ("lora-qkv", {"dropout": 0.0, "scale": -1.0, "rank": 1}),
        ("coop+ogen", {"warm_up": 0.0}),
        ("coop+textrefiner", {"cache_momentum": 1.0, "semantic_weight": 0.0}),
        ("tip-adapter", {"alpha": 0.0}),
        ("vl-compacter", {"rank": 0}),
    ):
        assert settings_of(create(name, stated)).items() >= stated.items()
