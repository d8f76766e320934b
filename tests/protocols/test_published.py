"""Published settings by data set and shots, against the released code of CoOp, CoCoOp, MaPLe and PromptSRC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from petiole.data.readers import coop
from petiole.errors import ConfigError
from petiole.methods.prompt_learning.templates import SEVEN
from petiole.methods.registry import create
from petiole.protocols import generalisation as protocol
from petiole.protocols.domain_shift import rows_of
from petiole.protocols.generalisation import Generalisation
from petiole.protocols.published import TEMPLATES


def few(
    *methods: str, known: str, shots: tuple[int, ...] = (1, 2, 4, 8, 16), published: bool = True
) -> Generalisation:
    return protocol.few_shot(
        "x", rows_of(methods), shots, reference="", seeds=1, known=known, published=published
    )


def by_shots(method: str, known: str, **given: Any) -> dict[str, dict[str, Any]]:
    protocol = few(method, known=known)
    return {k: protocol.settings(protocol.rows[0], given, k) for k in protocol.levels}


def test_coop_trains_longer_on_more_shots_but_not_on_imagenet() -> None:
    epochs = {k: s["epochs"] for k, s in by_shots("coop", "EuroSAT").items()}
    assert epochs == {"1": 50, "2": 100, "4": 100, "8": 200, "16": 200}
    assert {s["epochs"] for s in by_shots("coop", "ImageNet").values()} == {50}
    made = create("coop", by_shots("coop", "")["16"])
    assert (made.context, made.phrase, made.recipe.epochs) == (16, "", 200)  # type: ignore[attr-defined]


@pytest.mark.parametrize("known", sorted(TEMPLATES))
def test_promptsrc_averages_about_another_epoch_on_five_data_sets(known: str) -> None:
    late = known in (
        "StanfordCars",
        "OxfordFlowers",
        "FGVCAircraft",
        "DescribableTextures",
        "EuroSAT",
    )
    for settings in by_shots("promptsrc", known).values():
        recipe = create("promptsrc", settings).recipe
        assert recipe.epochs == 50
        assert (recipe.average_mean, recipe.average_sd) == ((45, 5) if late else (30, 30))


def test_what_the_user_states_wins() -> None:
    stated = by_shots("coop", "EuroSAT", steps=3, phrase="a photo of a")
    assert all(s == {"steps": 3, "phrase": "a photo of a"} for s in stated.values())
    words = by_shots("coop", "EuroSAT", context=4)["1"]
    assert (words["context"], words["epochs"]) == (4, 50)
    protocol = few("zero-shot", "coop", known="EuroSAT")
    own = protocol.settings(protocol.rows[0], {"templates": ["{}"]})
    assert own == {"templates": ["{}"]}


def test_without_being_asked_nothing_but_the_template_is_published() -> None:
    protocol = few("zero-shot", "coop", known="EuroSAT", published=False)
    zero, learned = protocol.rows
    assert protocol.settings(zero, {}, "1") == {"templates": ["a centered satellite photo of {}."]}
    assert protocol.settings(learned, {}, "1") == {}
    assert protocol.notes({}) == [
        "zero-shot: templates=['a centered satellite photo of {}.'], as published"
    ]


def test_the_ensemble_takes_the_data_set_s_template_beside_the_seven() -> None:
    for known, more in (("UCF101", ["a photo of a person doing {}."]), ("ImageNet", [])):
        protocol = few("zero-shot-ensemble", "coop", known=known)
        assert protocol.settings(protocol.rows[0], {})["templates"] == [*SEVEN, *more]


def test_templates_are_not_applied_where_other_data_sets_are_tested_too() -> None:
    rows = rows_of(["zero-shot"])
    terms: dict[str, Any] = {"shots": 16, "seeds": 1, "known": "EuroSAT"}
    assert protocol.plan("x", rows, places=["dtd"], **terms).settings(rows[0], {}) == {}
    assert protocol.plan("x", rows, **terms).settings(rows[0], {}) != {}


def test_published_needs_a_method_with_published_training() -> None:
    with pytest.raises(
        ConfigError, match="published for coop, promptsrc, clip-lora, of which none"
    ):
        few("zero-shot", "maple", known="")


def test_a_directory_says_which_data_set_it_is(tmp_path: Path) -> None:
    for place, file, name in (
        ("pets", "split_zhou_OxfordPets.json", "OxfordPets"),
        ("planes", "variants.txt", "FGVCAircraft"),
        ("imagenet-a", "classnames.txt", "ImageNet"),
        ("mine", "notes.txt", ""),
    ):
        (tmp_path / place).mkdir()
        (tmp_path / place / file).write_text("{}")
        if file == "variants.txt":
            (tmp_path / place / "images_variant_train.txt").write_text("")
        assert coop.name_of(tmp_path / place) == name
    assert coop.name_of(tmp_path / "table.csv") == ""
