"""mAP, F1, R² and MAE on cases worked out by hand."""

import math

import numpy as np
import pytest

from petiole.metrics.targets import average_precisions, label_scores, names_given, value_scores


def test_average_precision_by_hand() -> None:
    # Ranked 0.9 (no), 0.8 (yes), 0.3 (yes), 0.1 (no): precisions at the hits 1/2 and 2/3.
    p = np.array([[0.8], [0.9], [0.1], [0.3]])
    t = np.array([[1], [0], [0], [1]])
    found = label_scores(p, t)
    assert found["mAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # At 0.5 one right, one wrong, one missed.
    assert found["f1_micro"] == pytest.approx(2 / (2 + 1 + 1))
    assert found["exact"] == pytest.approx(2 / 4)


def test_a_set_is_exact_when_all_of_it_is() -> None:
    p = np.array([[0.9, 0.2], [0.9, 0.2], [0.1, 0.9]])
    t = np.array([[1, 0], [1, 1], [0, 1]])
    assert label_scores(p, t)["exact"] == pytest.approx(2 / 3)


def test_labels_without_images_have_no_part() -> None:
    p = np.array([[0.9, 0.9], [0.2, 0.8]])
    t = np.array([[1, 0], [0, 0]])
    assert average_precisions(p, t)[0] == 1.0
    assert math.isnan(average_precisions(p, t)[1])
    assert label_scores(p, t)["mAP"] == label_scores(p, t)["f1_macro"] == 1.0
    assert math.isnan(label_scores(p, np.zeros((2, 2)))["mAP"])


def test_values_by_hand() -> None:
    found = value_scores([1.0, 2.0, 6.0], [1.0, 3.0, 5.0])
    assert found["r2"] == pytest.approx(1 - 2 / 8)
    assert found["mae"] == pytest.approx(2 / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(2 / 3))
    assert math.isnan(value_scores([1.0, 2.0], [3.0, 3.0])["r2"])
    with pytest.raises(ValueError, match="one length"):
        value_scores([1.0], [1.0, 2.0])


def test_given_labels_are_the_probable_ones() -> None:
    assert names_given([0.6, 0.4, 0.9, 0.5], ["a", "b", "c", "d"]) == ["c", "a", "d"]
