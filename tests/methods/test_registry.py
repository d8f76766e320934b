"""Methods by name: presets, conversion, validation, round trips."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import pytest

from petiole.errors import ConfigError
from petiole.methods import registry
from petiole.methods.heads.baselines import LogisticRegression
from petiole.methods.peft.cls_residual import ClsResidual
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create, methods, register, settings_of

NAMES = tuple(methods())


def test_the_family_of_the_letter_is_registered() -> None:
    assert {
        "source-only",
        "linear-probe",
        "cosine",
        "cosine-ln",
        "lora-linear",
        "lora-cosine",
        "lora-cosine-contrastive",
        "cls-residual-lora",
        "lora-qkv",
        "houlsby",
        "full",
        "knn",
        "class-means",
        "logistic-regression",
        "ridge",
    } <= set(NAMES)


def test_presets_make_the_rows_of_table_1() -> None:
    rows = {
        "source-only": (False, False, False, "linear", "source"),
        "linear-probe": (False, False, False, "linear", "joint"),
        "cosine": (False, False, False, "cosine", "joint"),
        "lora-linear": (True, False, False, "linear", "joint"),
        "lora-cosine": (True, False, False, "cosine", "joint"),
        "lora-cosine-contrastive": (True, False, True, "cosine", "joint"),
        "cls-residual-lora": (True, True, True, "cosine", "joint"),
    }
    for name, row in rows.items():
        m = create(name)
        assert isinstance(m, ClsResidual)
        assert (m.lora, m.adapter, m.contrastive, m.head, m.recipe.train_on) == row


@pytest.mark.parametrize("name", NAMES)
def test_settings_make_the_same_method_again(name: str) -> None:
    method = create(name)
    assert create(name, settings_of(method)) == method
    changed = create(name, {"steps": 17, "lr": 0.5})
    assert changed != method
    assert create(name, settings_of(changed)) == changed
    through_json = json.loads(json.dumps(settings_of(changed)))
    assert create(name, through_json) == changed
    assert hash(method) == hash(create(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_method_and_its_recipe_share_no_name(name: str) -> None:
    own = {f.name for f in fields(methods()[name].cls)} - {"recipe"}
    assert not own & {f.name for f in fields(Recipe)}
    assert methods()[name].about


def test_names_are_sorted_and_need_no_import() -> None:
    assert list(NAMES) == sorted(NAMES)


def test_one_name_for_two_methods_is_an_error() -> None:
    @dataclass(frozen=True)
    class Other(ClsResidual):
        pass

    with pytest.raises(ConfigError, match="Two methods are named 'cosine'"):
        register("cosine", "again")(Other)
    assert registry.methods()["cosine"].cls is ClsResidual


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("cls-residual-lor", {}, "Did you mean cls-residual-lora"),
        ("cls-residual-lora", {"rnk": 4}, "Did you mean .*rank"),
        ("cls-residual-lora", {"step": 4}, "Did you mean .*steps"),
        ("cosine", {"recipe": {}}, "Unknown recipe"),
        ("cosine", {"head": "quadratic"}, "head='quadratic'.*'linear' or 'cosine'"),
        ("cosine", {"rank": "many"}, "rank='many'"),
        ("cosine", {"rank": 2.5}, "rank=2.5"),
        ("cosine", {"lora": "perhaps"}, "lora='perhaps'"),
        ("cosine", {"lr": -1}, "lr=-1: Input should be greater than or equal to 0"),
        ("cosine", {"lr": float("nan")}, "lr=nan: Input should be a finite number"),
        ("cosine", {"steps": "-3"}, "steps='-3': Input should be greater than or equal to 0"),
        ("cosine", {"warmup": 1.5}, "warmup=1.5: Input should be less than or equal to 1"),
        ("cosine", {"target_weight": float("nan")}, "target_weight=nan: Input should be a finite"),
        (
            "cosine",
            {"classes_per_batch": 0},
            "classes_per_batch=0: Input should be greater than or equal to 1",
        ),
        ("cosine", {"train_on": "everything"}, "train_on='everything'"),
    ],
)
def test_wrong_names_and_values_say_what_is_right(
    name: str, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        create(name, values)


def test_strings_from_a_command_line_are_converted() -> None:
    method = create(
        "cls-residual-lora",
        {"rank": "4", "lora_scale": "2", "adapter": "false", "steps": "10", "lr": "3e-4"},
    )
    assert isinstance(method, ClsResidual)
    assert (method.rank, method.lora_scale, method.adapter) == (4, 2.0, False)
    assert (method.recipe.steps, method.recipe.lr) == (10, 3e-4)
    logistic = create("logistic-regression", {"grid": ["0.1", "1"]})
    assert isinstance(logistic, LogisticRegression)
    assert logistic.grid == (0.1, 1.0)


def test_settings_override_presets() -> None:
    method = create("cosine", {"head": "linear"})
    assert isinstance(method, ClsResidual)
    assert method.head == "linear"


def test_what_trains_inside_the_backbone_counts_in_passes() -> None:
    """200 images of 10 classes were 1,800 epochs once; now 40, and a large source ends where it used to."""
    recipe = create("full").recipe
    images = recipe.images_per_step(10)
    assert recipe.resolved(200, 10).steps * images / 200 <= 50
    assert recipe.resolved(10, 10).steps == recipe.min_steps
    assert recipe.resolved(1_000_000, 47).steps == recipe.max_steps == 3000
    assert create("adaptertune").recipe.epochs == 50
    assert create("full", {"steps": 7}).recipe.resolved(200, 10).steps == 7


def test_a_recipe_goes_by_its_name() -> None:
    assert create("full", {"recipe": "paper"}).recipe.resolved(200, 10).steps == 3000
    assert create("full", {"recipe": "paper", "steps": 5}).recipe.steps == 5
    assert create("knn", {"recipe": "paper"}) == create("knn")
    with pytest.raises(ConfigError, match="recipe"):
        create("full", {"recipe": "papper"})
