"""Whatever answers from a trained model does so in evaluation, twice the same, without gradients, and gives the mode back.

Every layer that was added drops half of its output while it trains, so an answer in training mode is another each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from petiole.backbones.frozen_network import IMAGES, FrozenNetwork
from petiole.engine.adapted_model import AdaptedModel
from petiole.methods.registry import create, settings_of
from petiole.serving.pool import AdapterPool
from petiole.tasks.classification.adapter import ClassificationAdapter, golden_logits
from petiole.tasks.classification.drift import Drift
from petiole.tasks.classification.model import AdaptedClassifier, predict
from petiole.tasks.codebook.adapter import build_model, golden_tokens
from petiole.tasks.codebook.adapter import method_of as codebook_method
from petiole.tasks.codebook.code_usage import CodeProbe, counts
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.training import answers as codebook_answers
from petiole.tasks.text.adapter import golden_scores
from petiole.tasks.text.adapter import method_of as text_method
from petiole.tasks.text.collator import Collator
from petiole.tasks.text.fold import fold
from petiole.tasks.text.model import AdaptedTextModel
from petiole.tasks.text.training import answers as text_answers
from petiole.testing import backbones, codebook_lvlm, encoder_decoder


@dataclass
class Trained:
    """A model in training mode, and what answers from it.

    Attributes:
        model: in training mode.
        frozen: underneath.
        forward: the model itself, which drops out.
        entries: by name; each answers from the model.
    """

    model: nn.Module
    frozen: FrozenNetwork
    forward: Callable[[], Tensor]
    entries: dict[str, Callable[[], Any]]


def dropping(model: nn.Module) -> nn.Module:
    """The model, moved off its start, with every added layer dropping half of its output while it trains."""

    def drop(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        return dropout(output, 0.5, layer.training)

    for part in model.modules():
        for layer in part.attach.values() if isinstance(part, AdaptedModel) else ():
            layer.register_forward_hook(drop)
    return encoder_decoder.moved(model).train()


def photos(tmp_path: Path) -> Trained:  # noqa: ARG001
    backbone, method = backbones.plain(), create("adaptformer", {"rank": 4})
    model = dropping(AdaptedClassifier(backbone, method.plan(backbone, 3)))
    assert isinstance(model, AdaptedClassifier)
    images = backbones.images(backbone, 3)
    state = backbone.lower(images, model.cut)
    settings = settings_of(method)
    adapter = ClassificationAdapter.of(
        model, method="adaptformer", settings=settings, classes=["a", "b", "c"], weights=None, image_size=None
    )  # fmt: skip
    pool = AdapterPool(backbone)

    def mixed() -> Tensor:
        pool.add(name := str(len(pool.names)), model)
        answer = pool(images, name).logits
        model.train()  # the pool takes it over in evaluation mode
        return answer

    return Trained(
        model, backbone, lambda: model({IMAGES: images}).logits,
        {
            "predict": lambda: tuple(predict(model, [state])),
            "golden logits": lambda: golden_logits(model),
            "drift": lambda: Drift(model, state)(),
            "labels": lambda: [one.label for one in adapter.predict(list(images.clamp(0, 1)))],
            "pool": mixed,
        },
    )  # fmt: skip


def language(tmp_path: Path) -> Trained:  # noqa: ARG001
    frozen, tasks = encoder_decoder.model(), encoder_decoder.tasks()
    method = text_method("vl-adapter", {"tasks": 3})
    model = dropping(AdaptedTextModel(frozen, method.plan(frozen)))
    assert isinstance(model, AdaptedTextModel)
    collator = Collator(frozen, tasks)
    batch = collator.batch([(0, s) for s in tasks[0].parts["train"][:2]], np.random.default_rng(0))  # fmt: skip
    return Trained(
        model, frozen, lambda: model(batch.inputs, batch.labels, batch.tasks),
        {
            "golden scores": lambda: golden_scores(model),
            "answers": lambda: text_answers(model, collator, 0, tasks[0].parts["test"]),
            "fold": lambda: [p.detach() for p in fold(model).state_dict().values()],
        },
    )  # fmt: skip


def codebook(tmp_path: Path) -> Trained:
    frozen, data = (
        codebook_lvlm.model("gpt2"),
        codebook_lvlm.data(tmp_path / "sketch", train=3, test=2),
    )
    model = dropping(build_model(codebook_method("craft", {"encoder": "adaptertune"}), frozen))
    folder, samples = ImageFolder(data.root, frozen.tower), data["test"]
    pictures = codebook_lvlm.pictures()
    names = [sample.images[0] for sample in samples]

    def seen() -> Any:
        return folder.vision_outputs(model, names)

    return Trained(
        model, frozen, lambda: model.encode_images(pictures).z,
        {
            "golden tokens": lambda: golden_tokens(model),
            "vision outputs": lambda: seen().all.z,
            "frequencies": lambda: counts(model, folder, samples).tuned,
            "probe": lambda: CodeProbe(model, folder, samples).diagnosis(),
            "answers": lambda: codebook_answers(model, seen(), samples),
        },
    )  # fmt: skip


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)


def same(one: Any, two: Any) -> bool:
    a, b = list(tensors(one)), list(tensors(two))
    return all(map(torch.equal, a, b)) and len(a) == len(b) and (bool(a) or one == two)


@pytest.mark.parametrize("kind", [photos, language, codebook], ids=lambda kind: kind.__name__)
def test_answers_are_those_of_evaluation(kind: Callable[[Path], Trained], tmp_path: Path) -> None:
    made = kind(tmp_path)
    assert not torch.equal(made.forward(), made.forward())  # so that a forgotten .eval() shows
    for name, entry in made.entries.items():
        torch.manual_seed(0)
        first = entry()
        torch.manual_seed(1)
        assert same(first, entry()), name
        assert made.model.training, f"{name}: the mode is not restored"
        assert not any(t.requires_grad for t in tensors(first)), f"{name}: needs a gradient"
        assert not any(m.training for m in made.frozen.module.modules()), name
