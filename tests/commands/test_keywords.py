"""Keywords of verbs: their groups, what differs from the defaults, and addresses among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from cyclopts import Parameter

from petiole.cli import main
from petiole.commands.arguments import alternatives, fitting
from petiole.commands.config_file import _plain, _text, read_config, write_config
from petiole.commands.options import ModelOptions
from petiole.commands.places import Places, _addresses, _is_image
from petiole.commands.verb import _equal, differing, gathered, keywords, verb
from petiole.errors import ConfigError
from petiole.ranges import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    ProperFraction,
    Seed,
)


@dataclass(frozen=True)
class Box:
    """A group of options."""

    width: int = 3
    name: str = "box"


def packed(data: str, *, seed: int = 0, box: Box | None = None, tags: tuple[str, ...] = ()) -> Any:
    """Not yet a verb."""
    return data, seed, box, tags


def test_keywords_go_into_their_groups() -> None:
    assert keywords(packed) == ("data", "seed", "tags", "width", "name")
    assert gathered(packed, {"width": 5, "seed": 1}) == {"seed": 1, "box": Box(5)}
    assert gathered(packed, {"box": Box(4)}) == {"box": Box(4)}
    assert gathered(packed, {"box": None, "name": "x"}) == {"box": Box(3, "x")}
    with pytest.raises(ConfigError, match=r"^Give box=\.\.\., or name, width, not both\.$"):
        gathered(packed, {"box": Box(4), "width": 5, "name": "x"})
    with pytest.raises(ConfigError, match=r"Unknown option of packed 'widthx'.*width"):
        gathered(packed, {"widthx": 5})
    assert verb(packed)("d", width=7) == ("d", 0, Box(7), ())


def test_only_what_differs_from_the_defaults_is_kept() -> None:
    given = {"tags": ("a",), "seed": 0, "box": Box(5), "data": "d"}
    assert differing(packed, given) == {"data": "d", "tags": ("a",), "width": 5}
    assert list(differing(packed, given)) == ["data", "tags", "width"], "in the verb's order"
    assert differing(packed, {"data": "d", "box": None}) == {"data": "d"}
    assert differing(packed, {"seed": False, "tags": []}) == {"seed": False, "tags": []}
    tensor = torch.zeros(1)
    assert differing(packed, {"seed": tensor}) == {"seed": tensor}
    assert _equal(2, 2)
    assert not _equal(2, 2.0)
    assert not _equal(tensor, tensor)
    assert not _equal([1], [1])


def test_hints_are_seen_through() -> None:
    assert alternatives(Annotated[int | None, Parameter()]) == (int, type(None))
    assert alternatives(Annotated[Box, Parameter()] | None) == (Box, type(None))
    assert alternatives(str) == (str,)


NUMBERS, NAMES = Sequence[int], Sequence[str]
EITHER, NAMED = Literal["a", "b"], list[str] | str | None
TRAINED = object()


@pytest.mark.parametrize(
    ("hint", "value", "taken"),
    [
        (int, 3, 3), (int | None, None, None), (int, np.int64(3), 3), (float, 2, 2), (float | None, np.float32(0.5), 0.5),
        (bool, True, True), (str, "x", "x"), (str, Path("x"), Path("x")), (EITHER, "b", "b"), (EITHER | None, None, None),
        (NAMES, "ridge", ["ridge"]), (NAMES, ("ridge",), ("ridge",)), (NUMBERS, 3, [3]), (NUMBERS, [3], [3]),
        (Sequence[Path], "a/b", ["a/b"]), (Sequence[Path], Path("a"), [Path("a")]), (NAMED, "x", "x"), (NAMED, ["x"], ["x"]),
        (Path | None, TRAINED, TRAINED), (list[str], TRAINED, TRAINED), (list[str] | None, {"a": 1}, {"a": 1}),
        (list[str] | dict[str, Any] | None, {"a": 1}, {"a": 1}), (Seed | None, None, None), (Seed, 0, 0), (Seed, 2**32 - 1, 2**32 - 1),
        (PositiveFraction, 1, 1), (PositiveFraction, 1e-9, 1e-9), (PositiveInt, 1, 1), (int, 2**53, 2**53), (int, -(2**53), -(2**53)),
        (Sequence[PositiveInt], (1, 2), (1, 2)), (Sequence[PositiveInt], 3, [3]), (bool, 1, 1), (str | PositiveFloat, "nan", "nan"), (str | float | None, 0.5, 0.5), (Any, TRAINED, TRAINED),
    ],
)  # fmt: skip
def test_values_fit_their_options(hint: Any, value: Any, taken: Any) -> None:
    assert fitting("x", value, hint) == taken


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (int | None, "3", r"x is a whole number, not '3' (str). Write x=3."),
        (int, 3.0, r"x is a whole number, not 3.0 (float)."),
        (float, "0.5", r"x is a number, not '0.5' (str). Write x=0.5."),
        (float, "half", r"x is a number, not 'half' (str)."),
        (bool, "yes", r"x is True or False, not 'yes' (str)."),
        (str | float, (1,), r"x is a text or a number, not (1,) (tuple)."),
        (NAMED, 7, r"x is a text, not 7 (int)."),
        (NAMED, TRAINED, r"x is a text, not object."),
        (EITHER | None, "c", r"x is one of 'a', 'b', not 'c'."),
        (EITHER, 1, r"x is one of 'a', 'b', not 1."),
        (int | None, True, r"x is a whole number, not True (bool)."),
        (Seed, -1, "x must be at least 0 and at most 4,294,967,295, not -1."),
        (Seed | None, 2**32, "x must be at least 0 and at most 4,294,967,295, not 4294967296."),
        (Sequence[PositiveInt], [1, 0], "x must be at least 1, not 0."),
        (Sequence[PositiveInt], 0, "x must be at least 1, not 0."),
        (PositiveFraction, 0, "x must be more than 0 and at most 1, not 0."),
        (PositiveFraction, 1.5, "x must be more than 0 and at most 1, not 1.5."),
        (NonNegativeFloat | None, float("nan"), "x must be finite, not nan."),
        (PositiveFloat, float("inf"), "x must be finite, not inf."),
        (float, float("nan"), "x must be finite, not nan."),
        (NonNegativeFloat, -0.5, "x must be at least 0, not -0.5."),
        (ProperFraction | None, 1, "x must be more than 0 and less than 1, not 1."),
        (int, 10**400, f"x must be between -{2**53:,} and {2**53:,}, not {10**400}."),
        (int, -(2**53) - 1, f"x must be between -{2**53:,} and {2**53:,}, not {-(2**53) - 1}."),
    ],
)
def test_a_value_of_another_kind_says_what_is_taken(hint: Any, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        fitting("x", value, hint)
    assert str(error.value) == said


def test_values_are_judged_of_verbs_and_of_their_groups() -> None:
    with pytest.raises(ConfigError, match=r"^seed is a whole number, not 'a' \(str\)\.$"):
        verb(packed)("d", seed="a")
    with pytest.raises(ConfigError, match=r"^width is a whole number, not '7' \(str\)\. Write width=7\.$"):  # fmt: skip
        verb(packed)("d", width="7")
    with pytest.raises(ConfigError, match=r"^width is a whole number, not '7' \(str\)\. Write width=7\.$"):  # fmt: skip
        verb(packed)("d", box=Box(width="7"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as error:
        verb(packed)("d", box="big")
    assert str(error.value) == (
        "box is Box(...), not 'big' (str). Its fields are keywords too: width, name, ..."
    )
    assert verb(packed)("d", box=None) == ("d", 0, None, ())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit x --shots 2.5", "--shots is a whole number, not 2.5."),
        ("fit x --seed=1e.0", "--seed is a whole number, not 1e.0."),
        ("sweep rank x --values 1 2.0", "--values is a whole number, not 2.0."),
        ("fit x --seed -1", "--seed must be at least 0 and at most 4,294,967,295, not -1."),
        ("serve --replicas 1 0", "--replicas must be at least 1, not 0."),
        ("fit x --budget nan", "--budget must be finite, not nan."),
    ],
)
def test_numbers_of_the_command_line_are_judged_as_they_stand(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """cyclopts would round fractions, and tell ranges in pydantic's words."""
    with pytest.raises(SystemExit) as done:
        main(words.split())
    assert (done.value.code, capsys.readouterr().err) == (1, f"error: {said}\n")


def test_a_configuration_file_has_what_toml_can_say(tmp_path: Path) -> None:
    value = {"a": Path("x/y"), "b": (1, [2.5, True]), 3: {"c": "d"}, "e": Path("s3:/bucket/x")}
    assert _plain(value) == {
        "a": "x/y",
        "b": [1, [2.5, True]],
        "3": {"c": "d"},
        "e": "s3://bucket/x",
    }
    with pytest.raises(TypeError, match=r"object"):
        _plain([object()])
    assert [_text(one) for one in (True, 1.5, "x", [1, 2])] == ["True", "1.5", "x", "(1,2)"]
    write_config(tmp_path, "fit", {"resume": True, "out": "o", "seed": 2, "data": ["a", "b"]})
    text = (tmp_path / "config.toml").read_text()
    assert text.splitlines()[0].startswith("# petiole fit --config config.toml --out FOLDER")
    assert read_config(tmp_path / "config.toml") == {"seed": 2, "data": ["a", "b"]}
    assert text.index("seed") < text.index("data"), "in the order of the call"
    write_config(tmp_path, "fit", {"data": [torch.zeros(1)], "seed": 2})
    text = (tmp_path / "config.toml").read_text()
    assert text.splitlines()[1:] == [
        "# data was given in Python and has no form here: give it again",
        "seed = 2",
    ]


@pytest.mark.parametrize(
    ("value", "has"),
    [
        ("s3://b/x", True), (Path("s3://b/x"), True), ("vqa=s3://b/x", True), ("photos", False),
        (["photos", "s3://b/x"], True), (("photos",), False), ([3, None], False), (None, False),
        (b"s3://b/x", False), (ModelOptions(cache_dir=Path("s3://b/x")), True), (ModelOptions(), False),
        (ModelOptions, False), (["a"] * 999 + ["s3://b/x"], True), (["a"] * 1000 + ["s3://b/x"], False),
        ([["s3://b/x"]], False), ({"a": "s3://b/x"}, False),
    ],
)  # fmt: skip
def test_addresses_are_found_where_they_may_stand(value: Any, has: bool) -> None:
    assert _addresses(value) is has


def test_texts_about_local_places_speak_of_addresses(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked: list[Any] = []

    def path(_: Places, name: str, address: Any, resume: bool) -> Path:
        asked.append((name, str(address), resume))
        return Path("here") / address.key

    monkeypatch.setattr(Places, "_path", path)
    group = ModelOptions(cache_dir=Path("s3://b/c"), weights=Path("w"))
    given = {
        "data": ["vqa=s3://b/x", "photos"], "tasks": ("t=gs://b/y",), "settings": ["a=s3://b/z"],
        "out": "s3://b/out", "model": group, "resume": 1, "images": Path("az://b/i"), "kind": ModelOptions,
    }  # fmt: skip
    local = Places("fit", given).local()
    assert local == {
        "data": ["vqa=here/x", "photos"],
        "tasks": ("t=here/y",),
        "settings": ["a=s3://b/z"],
        "out": "here/out",
        "model": ModelOptions(cache_dir=Path("here/c"), weights=Path("w")),
        "resume": 1,
        "images": Path("here/i"),
        "kind": ModelOptions,
    }
    assert asked == [
        ("data", "s3://b/x", True),
        ("tasks", "gs://b/y", True),
        ("out", "s3://b/out", True),
        ("cache_dir", "s3://b/c", True),
        ("images", "az://b/i", True),
    ]
    assert Places("fit", {"model": ModelOptions()}).local()["model"] == ModelOptions()
    assert [_is_image(name) for name in ("a.png", "b/C.JPG", "png", "a.csv")] == [True, True, False, False]  # fmt: skip
