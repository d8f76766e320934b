"""Parameters of the prompt learners on CLIP ViT-B/16 as their released code has them, without weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from petiole import claims
from petiole.backbones.base import Backbone
from petiole.backbones.registry import load
from petiole.ledger import Ledger, Sizes, count_parameters, ledger
from petiole.methods.base import Method
from petiole.methods.registry import create
from petiole.testing.dual_encoder import towers


@cache
def clip() -> Backbone:
    return load("hf/openai/clip-vit-base-patch16", device="meta")


@cache
def _counted(method: Method) -> Ledger:
    return ledger(clip(), method, 100)


def counted(name: str, **settings: Any) -> Ledger:
    return _counted(create(name, settings))


def sized(name: str, **settings: Any) -> Sizes:
    return count_parameters(clip(), create(name, settings), 100)


@pytest.mark.parametrize(
    ("name", "settings", "trainable"),
    [
        ("zero-shot", {}, 0),
        ("coop", {"context": 4}, 2_048),
        ("coop", {"context": 16, "phrase": ""}, 8_192),
        ("coop", {"context": 16, "phrase": "", "class_specific": True}, 819_200),
        ("cocoop", {}, 35_360),
        ("maple", {}, 3_555_072),
        ("maple", {"depth": 3}, 1_185_024),
        ("ivlp", {}, 46_080),
        ("ivlp", {"depth": 3}, 15_360),
        ("promptsrc", {}, 46_080),
        ("promptsrc", {"depth": 3}, 15_360),
        ("promptkd", {"width": 768}, 1_013_760),
        ("clip-lora", {}, 184_320),
    ],
)
def test_what_is_trained(name: str, settings: dict[str, Any], trainable: int) -> None:
    assert sized(name, **settings).trainable == trainable


@pytest.mark.parametrize(
    ("host", "settings", "added", "cache", "kept"),
    [
        # Linear and cache serve prediction, the alignment does not.
        ("coop", {}, 1_050_624, 12_800, 524_288),
        ("maple", {}, 1_050_624, 12_800, 524_288),
        ("promptkd", {"width": 768}, 2_165_760, 19_200, 1_179_648),
    ],
)
def test_what_textrefiner_adds(
    host: str, settings: dict[str, Any], added: int, cache: int, kept: int
) -> None:
    alone, refined = (
        sized(host, **settings),
        sized(f"{host}+textrefiner", host_settings=settings),
    )
    assert refined.trainable - alone.trainable == added
    assert refined.inference - alone.inference == kept
    assert refined.fixed - alone.fixed == cache


def test_folded_leaves_one_vector_a_class_and_a_scale() -> None:
    got = sized("folded", method="coop+textrefiner", settings={})
    assert (got.trainable, got.fixed) == (0, 100 * 512 + 1)


def test_class_names_cost_once_and_not_for_each_image() -> None:
    """CLIP's text tower by hand: 12 tokens, as a shape counts short names, 12 layers of width 512, one projection."""
    got = counted("coop")
    matrices, attention = 2 * 12 * 12 * 512**2, 2 * 2 * 12 * 12 * 512
    names = 100 * (12 * (matrices + attention) + 2 * 512 * 512)
    assert got.flops_classes == names
    assert got.flops_forward - got.flops_backbone == 2 * 512 * 100
    # Backward: as much again through the frozen tower, and attention's two products twice more.
    assert 2 * names < got.flops_classes_training < 3.1 * names
    assert 2 * 512 * 100 < got.flops_training < 10 * 512 * 100


def test_class_vectors_that_depend_on_the_image_cost_for_each_image() -> None:
    got, once = (ledger(towers(), create(name), 3) for name in ("cocoop", "coop"))
    assert got.flops_classes == got.flops_classes_training == 0
    assert got.flops_forward - got.flops_backbone > once.flops_classes > 0


def test_a_batch_norm_is_counted_on_one_image() -> None:
    """PromptKD's projector has one, which in training has no statistics of a single vector."""
    got = ledger(towers(), create("promptkd"), 3)
    assert got.flops_training > got.flops_forward > got.flops_backbone


def test_an_image_method_has_no_class_names_to_pay_for() -> None:
    got = ledger(towers(), create("dora"), 3)
    assert got.flops_classes == got.flops_classes_training == 0
    assert got.flops_training > got.flops_above_cut


TABLES = [
    (t, row["name"])
    for t in claims.names()
    if t.startswith("textrefiner/")
    for row in claims.table(t)["rows"]
]


@pytest.mark.parametrize(("table", "row"), TABLES)
def test_every_row_of_textrefiner_s_tables_builds(table: str, row: str) -> None:
    stated = next(r for r in claims.table(table)["rows"] if r["name"] == row)
    got = sized(stated["method"], **stated.get("settings", {}))
    assert (got.trainable > 0) == (stated["method"] not in ("zero-shot", "zero-shot-ensemble"))


def test_keeping_the_alignment_trains_nothing_more() -> None:
    kept = sized("coop+textrefiner", keep_alignment=True)
    assert kept.trainable == sized("coop+textrefiner").trainable
    assert kept.inference == kept.trainable
