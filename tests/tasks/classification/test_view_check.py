"""Views that lose labels are measured and named; a folder says which views keep them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from petiole.data.label_safe import VIEWS, stated_augmentation
from petiole.data.synthetic.scenes import write_task
from petiole.engine.run import RunSpec
from petiole.errors import DataError
from petiole.methods.recipe import Recipe
from petiole.tasks.classification.view_check import _class_means, warning
from petiole.tasks.classification.workspace import Classification


def test_class_means_leave_the_image_itself_out() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(9, 5), torch.arange(9) % 3
    got = _class_means(x, y, 3)(x)
    unit = torch.nn.functional.normalize(x, dim=-1)
    for i in range(9):
        for k in range(3):
            others = [j for j in range(9) if j != i and y[j] == k]
            mean = unit[others].mean(0)
            assert float(got[i, k]) == pytest.approx(float(unit[i] @ mean / mean.norm()), abs=1e-5)


def test_a_fall_of_more_than_five_points_is_told() -> None:
    recipe = Recipe(augmentation="crops")
    told = warning({"zero-shot, evaluation view": 77.0, "zero-shot, training views": 62.0}, recipe)
    assert "zero-shot accuracy is 62 % on views by augmentation=crops, 77 %" in told
    assert not warning({"a, evaluation view": 77.0, "a, training views": 73.0}, recipe)
    assert not warning({}, recipe)


def test_a_folder_states_its_views_and_a_run_may_overrule_it(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "scenes", "shapes", train=2, test=1)
    assert stated_augmentation(folder) == "none"
    workspace = Classification("petiole/tiny-clip", folder, quiet=True).open()

    def recipe(**settings: object) -> Recipe:
        return workspace.method_of(RunSpec(workspace.task, "coop", tmp_path, settings)).recipe

    assert (recipe().augmentation, recipe().views) == ("none", 0)
    assert recipe(augmentation="crops").augmentation == "crops"
    assert recipe(augmentation="crops").views == Recipe().views


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"augmentation": "crps"})])
def test_a_bad_statement_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / VIEWS).write_text(text)
    with pytest.raises(DataError, match=r"views\.json"):
        stated_augmentation(tmp_path)


def test_nothing_stated_changes_nothing(tmp_path: Path) -> None:
    assert stated_augmentation(tmp_path) == ""
    assert stated_augmentation(np.zeros(3)) == ""
