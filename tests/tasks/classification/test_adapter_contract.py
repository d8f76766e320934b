"""The lines of a contract, measured by hand, and which contracts are refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders.comparisons import images
from petiole.errors import ConfigError
from petiole.tasks.classification import contract
from petiole.tasks.classification.contract import Contract, ContractTest, Line, read_contract
from petiole.tasks.classification.model import Predictions


def test_every_line_of_a_contract_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images, of which three are right; blur leaves one and darkness, which is mild, three."""
    data = images("p", [0, 0, 1, 1])
    logits = 2 * torch.eye(2)[[0, 0, 1, 0]]
    asked: list[Any] = []
    left = {("blur", 3): torch.eye(2)[[1, 0, 0, 0]], ("dark", 1): logits}
    monkeypatch.setattr(contract, "corruption", lambda *given: given)
    monkeypatch.setattr(contract, "logits_of", lambda model, samples, change: left[change] if (model, samples) == ("model", data.samples) else None)  # fmt: skip
    monkeypatch.setattr(contract, "outputs_of", lambda model, samples: asked.append((model, samples)) or Predictions(logits, logits))  # fmt: skip
    adapter: Any = SimpleNamespace(adapted="model", probabilities=lambda z: (z / 2).softmax(-1))
    asks = Contract.model_validate(
        {
            "accuracy": {"min": 0.75}, "ece": {"max": 0.1}, "recall": [{"class": "y", "min": 0.6}, {"class": "x", "min": 1}],
            "corruption": [{"name": "blur", "max_drop": 0.4}, {"name": "dark", "severity": 1, "max_drop": 0.0}],
        }
    )  # fmt: skip
    lines = list(ContractTest(adapter, asks, data, None).lines())
    p = float(torch.tensor([1.0, 0.0]).softmax(0)[0])
    assert [(one.name, one.bound, one.at_least, one.images, one.ok) for one in lines] == [
        ("accuracy", 0.75, True, 4, True), ("ECE", 0.1, False, 4, True),
        ("recall of y", 0.6, True, 2, False), ("recall of x", 1, True, 2, True),
        ("drop under blur", 0.4, False, 4, False), ("drop under dark", 0, False, 4, True),
    ]  # fmt: skip
    found = [0.75, 0.75 - p, 0.5, 1, 0.5, 0]
    assert [one.value for one in lines] == pytest.approx(found, abs=1e-6)
    assert asked == [("model", data.samples)], "images are looked at once"
    parts = [Contract(zero_shot=None), Contract.model_validate({"zero_shot": {"images": "n", "max_drop": 0}, "ood": {"images": "o", "min_auroc": 0}})]  # fmt: skip
    for name in ("_zero_shot", "_ood"):
        monkeypatch.setattr(ContractTest, name, lambda _, clause, name=name: (name, clause))
    monkeypatch.setattr(contract, "ClassNameHead", object)
    adapter.adapted = SimpleNamespace(head=None)
    assert list(ContractTest(adapter, parts[0], data, None).lines()) == []
    wanted = [("_zero_shot", parts[1].zero_shot), ("_ood", parts[1].ood)]
    assert list(ContractTest(adapter, parts[1], data, None).lines()) == wanted


def test_images_of_no_class_are_told_apart_by_how_familiar_they_look(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Three own images and two others: of six pairs one is the wrong way round."""
    own, others = Predictions(*[torch.tensor([3.0, 2.0, 5.0])] * 2), Predictions(*[torch.tensor([1.0, 2.5])] * 2)  # fmt: skip
    monkeypatch.setattr(contract, "as_images", lambda place: ("in", place))
    monkeypatch.setattr(contract, "outputs_of", lambda model, found: others if (model, found) == ("model", ("in", Path("far/o"))) else None)  # fmt: skip
    judged: Any = SimpleNamespace(
        adapter=SimpleNamespace(adapted="model", familiarity=lambda outputs: outputs.logits.numpy()),
        data=[0, 1, 2], _outputs=own,
    )  # fmt: skip
    clause: Any = SimpleNamespace(images=Path("far/o"), min_auroc=0.8)
    line = ContractTest._ood(judged, clause)
    assert (line.name, line.bound, line.at_least, line.images) == ("AUROC against o", 0.8, True, 5)
    assert line.value == pytest.approx(5 / 6)


def test_paths_of_a_slice_start_at_the_root() -> None:
    for root, path, said in ((Path("/a"), "/a/b/c.png", "b/c.png"), (Path("/z"), "/a/c.png", "/a/c.png"), (None, "/a/c.png", "/a/c.png")):  # fmt: skip
        judged: Any = SimpleNamespace(root=root)
        assert ContractTest._place(judged, Path(path)) == said


@pytest.mark.parametrize(("value", "at_least", "ok"), [(0.5 - 1e-10, True, True), (0.5 - 1e-8, True, False), (0.5 + 1e-10, False, True), (0.5 + 1e-8, False, False), (0.6, True, True), (0.4, False, True)])  # fmt: skip
def test_a_bound_is_met_up_to_rounding(value: float, at_least: bool, ok: bool) -> None:
    assert Line(name="l", value=value, bound=0.5, at_least=at_least, images=1).ok == ok


def test_a_contract_is_checked_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(head=None), manifest=SimpleNamespace(method="ridge"))  # fmt: skip
    data = images("p", [0, 1])

    def refused(said: str, **clauses: Any) -> None:
        with pytest.raises(ConfigError, match=said):
            ContractTest(adapter, Contract.model_validate(clauses), data, None)

    refused(r"Unknown class in \[\[recall\]\] 'z'", recall=[{"class": "z", "min": 1}])
    refused(
        r"^Severities are 1 to 5, not 9", corruption=[{"name": "fog", "severity": 9, "max_drop": 1}]
    )
    refused(r"^\[zero_shot\] is for heads that are made of class names, and ridge has a fixed", zero_shot={"images": "n", "max_drop": 1})  # fmt: skip
    monkeypatch.setattr(contract, "ClassNameHead", object)
    ContractTest(adapter, Contract.model_validate({"zero_shot": {"images": "n", "max_drop": 1}}), data, None)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"asks for nothing\. Give it at least one of accuracy, ece, recall, corruption, zero_shot, ood, e\.g\."),
        ("[accuracy]\n", r"accuracy needs min\.$"), ("[accuracy]\nmax = 1\n", r"Unknown key in \[accuracy\] 'max'.*min"),
        ("[[recall]]\nclass = 'x'\nmin = 2\n", r"recall\.0\.min: Input should be less than or equal to 1, not 2\.$"),
        ("[[recall]]\nmin = 1\n", r"recall\.0 needs class\.$"), ("[accuracies]\n", r"Unknown table of a contract 'accuracies'.*accuracy"),
        ("[[recall]]\nclas = 'x'\nmin = 1\n", r"Unknown key in \[recall\] 'clas'.*class"), ("[", r"cannot be read as TOML"),
    ],
)  # fmt: skip
def test_a_slip_in_a_contract_is_named_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    (file := tmp_path / "contract.toml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_contract(file)
    assert str(file) in str(caught.value)


def test_folders_in_a_contract_start_at_its_own(tmp_path: Path) -> None:
    (file := tmp_path / "c.toml").write_text("[ood]\nimages = 'other'\nmin_auroc = 0.5\n[ece]\nmax = 0.25\n")  # fmt: skip
    found = read_contract(file)
    assert found.ood is not None
    assert (found.ood.images, found.ood.min_auroc, found.zero_shot) == (tmp_path / "other", 0.5, None)  # fmt: skip
    assert found.ece is not None
    assert found.ece.max == 0.25


def test_shares_are_of_the_most_probable_class() -> None:
    logits: Tensor = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    assert contract._share(logits, np.array([0, 1, 1])) == 2 / 3
