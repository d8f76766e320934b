"""What verbs share: settings, the bench, results that print themselves."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, Group

from petiole.commands.options import ModelOptions, default_cache, fact, pairs, plural
from petiole.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, {}),
        ({"rank": 3}, {"rank": 3}),
        ([], {}),
        (["rank=3", "learn-tau=false"], {"rank": "3", "learn_tau": "false"}),
        (["blocks=last:2"], {"blocks": "last:2"}),
        (["grid=(0.1,1)"], {"grid": ["0.1", "1"]}),
        (["part=a=b"], {"part": "a=b"}),
        (
            ["host-settings.width=768", "alpha=0", "host_settings.depth=3"],
            {"host_settings": {"width": "768", "depth": "3"}, "alpha": "0"},
        ),
    ],
)
def test_settings_are_pairs(given: object, wanted: dict[str, object]) -> None:
    assert pairs(given) == wanted


@pytest.mark.parametrize("bad", ["rank", "=3", ""])
def test_a_setting_without_a_value_is_explained(bad: str) -> None:
    with pytest.raises(ConfigError, match=r"key=value.*--set rank=16"):
        pairs([bad])


def test_a_setting_is_not_both_a_value_and_parts() -> None:
    with pytest.raises(ConfigError, match=r"gives part a value and 'part\.one=2' a part"):
        pairs(["part=1", "part.one=2"])


def test_settings_of_a_host_reach_it() -> None:
    """Issue 4: TextRefiner's parameters on PromptKD, whose student is as wide as its teacher."""
    from petiole.ledger import params
    from petiole.methods.registry import create

    clip = "hf/openai/clip-vit-base-patch16"
    host = create("promptkd", pairs(["width=768"]))
    refined = create("promptkd+textrefiner", pairs(["host_settings.width=768"]))
    added = params(clip, refined, 10).trainable - params(clip, host, 10).trainable
    assert added == 2_165_760


def test_settings_reach_the_method_with_its_own_types() -> None:
    from petiole.methods.registry import create

    method = create("logistic-regression", pairs(["grid=(0.1,1)", "folds=3"]))
    assert method.grid == (0.1, 1.0)
    assert method.folds == 3


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PETIOLE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == Path.home() / ".cache" / "petiole"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache() == Path("/x/petiole")
    monkeypatch.setenv("PETIOLE_CACHE", "/y")
    assert default_cache() == Path("/y")


def test_a_machine_makes_a_bench() -> None:
    bench = ModelOptions(cache_dir=Path("/c")).classification(Path("a"))
    assert (bench.images, bench.cache, bench.source) == (Path("a"), Path("/c"), None)
    assert ModelOptions(no_cache=True, cache_dir=Path("/c")).classification(Path("a")).cache is None
    strings = ModelOptions(weights="w.safetensors", cache_dir="/c")  # type: ignore[arg-type]
    assert strings.classification("a", "b", "t", 0.5).cache == Path("/c")  # type: ignore[arg-type]
    hash(bench)


def test_facts_are_never_broken() -> None:
    console = Console(width=40, file=StringIO())
    path = "/" + "long/" * 30 + "[red]x"
    console.print(Group(fact("adapter", path)), crop=False)
    assert console.file.getvalue() == f"adapter  {path}\n"  # type: ignore[attr-defined]


def test_plurals() -> None:
    assert [plural(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
