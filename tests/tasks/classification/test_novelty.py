"""The out-of-distribution mark: cosine to the nearest class mean, each training image measured without itself."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.novelty import (
    Novelty,
    class_means,
    left_out_similarity,
    nearest,
)


def training(classes: int = 4, each: int = 8, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each) * 2  # every other class has no images
    vectors = torch.randn(2 * classes, width, generator=rng)[labels]
    return vectors + 0.3 * torch.randn(len(labels), width, generator=rng), labels


def test_an_image_is_left_out_of_its_own_mean() -> None:
    vectors, labels = training()
    vectors, labels = vectors[:26], labels[:26]
    labels[-1] = 7  # one class has a single image
    found = left_out_similarity(vectors, labels)
    for row in range(len(labels)):
        others = torch.arange(len(labels)) != row
        means = [
            normalize(normalize(vectors[others & (labels == c)], dim=-1).mean(0), dim=-1)
            for c in labels[others].unique()
        ]
        wanted = max(float(normalize(vectors[row], dim=-1) @ mean) for mean in means)
        assert float(found[row]) == pytest.approx(wanted, abs=1e-5)


def test_far_images_with_large_logits_are_marked() -> None:
    """The largest logit calls them the surest of all."""
    vectors, labels = training()
    novelty = Novelty.fit(vectors, labels, left_out_similarity(vectors, labels))
    assert novelty is not None
    torch.testing.assert_close(
        novelty.similarity(vectors),
        nearest(vectors, class_means(vectors, labels)),
        atol=1e-3,
        rtol=0,
    )
    logits = torch.eye(8)[labels] * 5
    known = Calibration.fit(logits, labels, 5, novelty)
    far, sure = -vectors, 10 * logits
    assert sum(map(bool, known.outside(logits, vectors))) <= 2
    assert all(known.outside(sure, far))
    old = known.model_copy(update={"novelty": None})  # an adapter from before
    assert not any(map(bool, old.outside(sure, far)))
    kept = Calibration.model_validate_json(known.model_dump_json())
    assert kept == known


def test_too_few_images_give_no_mark_and_damage_is_refused() -> None:
    vectors, labels = training()
    assert Novelty.fit(vectors, labels, torch.ones(18)) is None
    novelty = Novelty.fit(vectors, labels, torch.ones(19))
    assert novelty is not None
    for means in ("", novelty.means[:-4], "?" + novelty.means[1:]):
        with pytest.raises(ValidationError):
            Novelty(means=means, width=novelty.width, threshold=0.5)


def test_only_classes_with_images_have_a_mean() -> None:
    vectors, labels = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]]), torch.tensor([0, 2, 2])
    assert class_means(vectors, labels).tolist() == [[1, 0], [0, 1]]


def test_an_image_alone_in_its_class_is_like_none_of_it() -> None:
    vectors = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]])
    assert left_out_similarity(vectors, torch.tensor([0, 1, 1])).tolist() == [-1, 1, 1]
    assert left_out_similarity(vectors[:1], torch.tensor([1])).tolist() == [-1]
