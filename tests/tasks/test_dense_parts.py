"""Parts of tasks on pixels and on texts, by hand and on nothing larger than a few numbers."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from petiole.backbones.codebook_lvlm.model import LVLM
from petiole.engine.trainer import Callbacks
from petiole.errors import ConfigError
from petiole.layers.ridge import RidgeHead
from petiole.layers.standardise import Standardise
from petiole.methods.recipe import Recipe
from petiole.metrics.segmentation import mask_scores
from petiole.tasks import image_targets
from petiole.tasks.codebook import adapter as codebook
from petiole.tasks.codebook import training as codebook_training
from petiole.tasks.image_targets import TargetRun
from petiole.tasks.segmentation import adapter as segmented
from petiole.tasks.segmentation import overlays
from petiole.tasks.segmentation import task as segmentation
from petiole.tasks.segmentation.task import SegmentationRun, of_shares
from petiole.tasks.text import training as text_training
from petiole.tasks.text.model import AdaptedTextModel, _told_apart
from petiole.tasks.text.training import TextOptions


def test_the_loss_of_cells_is_that_of_their_pixels() -> None:
    """Cells of one and of two thirds: each share counts as so many pixels."""
    z = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    t = torch.tensor([[[1.0, 0.0], [1 / 3, 1 / 3]]])
    p = z.softmax(-1)
    hand = -(p[0, 0, 0].log() + p[0, 1, 0].log() / 3 + p[0, 1, 1].log() / 3) / (1 + 2 / 3)
    assert float(of_shares(z, t)) == pytest.approx(float(hand))
    assert float(of_shares(z, 0 * t)) == 0


def run_of(grid: tuple[int, int], cells: int, **more: Any) -> Any:
    run = object.__new__(SegmentationRun)
    run.workspace = SimpleNamespace(backbone=SimpleNamespace(grid=grid), cells=cells, **more)
    return run


class Passing(nn.Module):
    """Gives tokens on, a graph behind them; drops half in training."""

    def __init__(self, head: nn.Module, refine: nn.Module) -> None:
        super().__init__()
        self.head, self.refine = head, refine
        self.drop, self.one = nn.Dropout(0.5), nn.Parameter(torch.ones(()))

    def pooled(self, state: Tensor) -> Tensor:
        assert not torch.is_grad_enabled(), "a graph of all these images would be kept"
        return self.drop(self.one * state)


class Tokens:
    """Batches of tokens (n, N, c)."""

    def __init__(self, tokens: Tensor, size: int) -> None:
        self.tokens, self.size = tokens, size

    def batches(self, count: int) -> Iterator[Tensor]:
        yield from self.tokens[:count].split(self.size)


def test_channels_are_standardised_by_the_first_images_as_in_prediction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segmentation, "SEEN", 3)
    begun: list[Any] = []
    monkeypatch.setattr(TargetRun, "_descend", lambda _, *given: begun.append(given))
    tokens = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
    adapted = Passing(nn.Linear(2, 3), refine := Standardise(2)).train()
    given = (adapted, Tokens(tokens, 2), torch.zeros(4, 5, 3), Callbacks())
    run_of((1, 5), 1)._descend(*given)
    flat = tokens[:3].flatten(0, 1)
    torch.testing.assert_close(refine.mean, flat.mean(0))
    torch.testing.assert_close(refine.std, flat.std(0, correction=0))
    assert not refine.mean.requires_grad
    assert begun == [given]


def test_ridge_on_patches_is_that_of_their_pixels_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets are 2 t - 1 of each cell's own shares, cells weigh as much as classes balance; parts take turns."""
    monkeypatch.setattr(segmentation, "PARTS", 2)
    generator = torch.Generator().manual_seed(0)
    tokens, shares = torch.randn(3, 4, 2, generator=generator), torch.rand(3, 4, 3, generator=generator)  # fmt: skip
    shares[0, 0] = 0.0
    seen: list[Any] = []

    def solve(parts: list[Any], grid: Any) -> tuple[Tensor, Tensor, float]:
        seen.append((parts, grid))
        return torch.ones(3, 2), torch.full((3,), 2.0), 0.5

    monkeypatch.setattr(segmentation, "solve", solve)
    head = RidgeHead(2, 3, (0.1, 1.0))
    adapted = Passing(head, nn.Identity()).train()
    run_of((2, 2), 1)._solve(adapted, Tokens(tokens, 2), shares)
    [(parts, grid)] = seen
    assert grid == (0.1, 1.0)
    assert len(parts) == 2
    alike = segmentation.balanced_weights(shares.sum((0, 1)))
    for number, part in enumerate(parts):
        rows = [i for i in range(3) if i % 2 == number]
        x = tokens[rows].flatten(0, 1)
        y = torch.cat([2 * s / s.sum(1, keepdim=True).clamp_min(1e-9) - 1 for s in shares[rows]])
        weight = torch.cat([s @ alike for s in shares[rows]])
        hand = segmentation.Moments.of(x, y, weight)
        for got, want in zip(vars(part).values(), vars(hand).values(), strict=True):
            torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(want))
    assert head.weight.tolist() == [[1, 1]] * 3
    assert head.bias.tolist() == [2] * 3
    assert float(head.chosen_alpha) == 0.5
    assert not head.weight.requires_grad


@pytest.mark.parametrize(("given", "said"), [({"views": 2}, "views makes"), ({"augmentation": "crops"}, "augmentation makes"), ({"views": 0}, ""), ({}, "")])  # fmt: skip
def test_masks_have_no_random_views(given: dict[str, Any], said: str) -> None:
    run = run_of((1, 1), 1)
    run.spec = SimpleNamespace(settings=given, method="linear-probe")
    if said:
        with pytest.raises(ConfigError, match=said):
            run.check(None)
    else:
        run.check(None)


def test_shares_of_classes_are_of_all_pixels(tmp_path: Path) -> None:
    run = run_of((1, 1), 1)
    run.names, run.counts = ("a", "b", "c"), np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    told = run.finish(None, tmp_path)
    assert told["IoU"] == {"a": 3 / 6, "b": 4 / 7}
    assert told["share, true"] == {"a": 0.4, "b": 0.6, "c": 0.0}
    assert told["share, predicted"] == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert mask_scores(run.counts, 1)["pixel_accuracy"] == 0.7
    run.counts = np.zeros((3, 3), dtype=np.int64)
    assert run.finish(None, tmp_path)["share, true"] == dict.fromkeys("abc", 0.0)


def test_classes_have_colours_that_are_told_apart() -> None:
    colours = overlays.palette()
    assert colours.shape == (256, 3)
    assert len({tuple(colour) for colour in colours.tolist()}) > 200
    assert np.array_equal(colours, overlays.palette())


def test_masks_are_shown_in_the_colours_of_their_classes(tmp_path: Path) -> None:
    """The colours by hand, in a file whose folders are made for it; an overlay has them over the image, 6 to 4."""
    colours = overlays.palette()
    hand = [
        colorsys.hsv_to_rgb(0.618034 * i % 1, 0.85, 1 - 0.35 * (i // 8 % 2)) for i in (1, 9, 17)
    ]
    wanted = [[89] * 3, *np.round(255 * np.array(hand)).astype(int).tolist(), [255] * 3]
    assert colours[[0, 1, 9, 17, overlays.UNKNOWN]].tolist() == wanted
    for name in ("a.png", "b.png"):
        file = tmp_path / "over" / "lays" / name
        overlays.write_mask(file, np.array([[0, 9]], dtype=np.uint8))
        with Image.open(file) as written:
            assert np.array(written).tolist() == [[0, 9]]
            assert np.array(written.convert("RGB")).tolist() == [colours[[0, 9]].tolist()]
    truth, found = (np.array([row], dtype=np.uint8) for row in ([0, 9], [9, 9]))
    grey = Image.fromarray(np.full((1, 2, 3), 100, dtype=np.uint8))
    overlays.write_overlay(file := tmp_path / "o.webp", grey, truth, found)
    with Image.open(file) as written:
        shown = np.array(written.convert("RGB")).astype(int)
    assert shown.shape == (80, 3 * 160, 3)
    over = {kind: 0.4 * 100 + 0.6 * colours[kind].astype(float) for kind in (0, 9)}
    for column, colour in ((40, [100] * 3), (120, [100] * 3), (200, over[0]), (280, over[9]), (360, over[9]), (440, over[9])):  # fmt: skip
        assert np.abs(shown[40, column] - colour).max() < 12, column


def test_a_target_s_loss_forgets_class_vectors_and_is_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    done: list[Any] = []

    class Names(nn.Linear):
        def forget(self) -> None:
            done.append("forgotten")

    class Model(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.head = head

        @contextmanager
        def attached(self) -> Iterator[None]:
            done.append("attached")
            yield

        def forward(self, state: dict[str, Tensor]) -> Any:
            return SimpleNamespace(logits=self.head(state["v"]).double())

    monkeypatch.setattr(image_targets, "ClassNameHead", Names)
    run: Any = SimpleNamespace(loss=lambda outputs, targets: (outputs - targets).sum())
    for head, wanted in ((Names(2, 1), ["attached", "forgotten"]), (nn.Linear(2, 1), ["attached"])):
        done.clear()
        module = image_targets._TargetLoss(Model(head), run)  # type: ignore[arg-type]
        assert module.adapted.head is head
        x, y = torch.rand(3, 2), torch.rand(3, 1)
        loss = module({"v": x}, y)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx((head(x) - y).sum().item(), abs=1e-6)
        assert done == wanted


# --- answers -----------------------------------------------------------------------------------------


def choosing(**words: list[int]) -> tuple[Any, Any]:
    """A model with these tokens, and a task that takes one of these choices."""
    task: Any = SimpleNamespace(name="choice", choices=tuple(words))
    return SimpleNamespace(tokenizer=words.__getitem__), task


def test_choices_are_told_apart_at_the_first_token_that_differs() -> None:
    model, task = choosing(yes=[5, 7, 1], no=[5, 8, 1])
    assert _told_apart(model, task) == (1, [5, 7], [7, 8])
    model, task = choosing(yes=[4, 1], no=[6])
    assert _told_apart(model, task) == (0, [4], [4, 6])
    for alike in ({"a": [3, 4], "b": [3, 5], "c": [3, 4, 6]}, {"a": [3], "b": [3]}):
        model, task = choosing(**alike)
        with pytest.raises(ConfigError, match="are not told apart by one token"):
            _told_apart(model, task)


def test_a_head_chooses_among_a_task_s_own_answers() -> None:
    adapted: Any = SimpleNamespace(head=SimpleNamespace(answers=("red", "blue", "green")))
    scores = torch.tensor([[3.0, 2.0, 1.0], [0.0, 1.0, 4.0]])

    def chosen(*choices: str) -> list[str]:
        return AdaptedTextModel._chosen(adapted, scores, SimpleNamespace(name="t", choices=choices))  # type: ignore[arg-type]

    assert chosen() == ["red", "green"]
    assert chosen("green", "blue", "pink") == ["blue", "green"]
    with pytest.raises(ConfigError, match=r"None of the choices of t \(pink\)"):
        chosen("pink")


def test_a_method_that_does_not_fit_a_model_is_refused_before_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[Any] = []

    class Method:
        def check(self, backbone: object) -> None:
            raise ConfigError(f"it does not fit {type(backbone).__name__}")

    monkeypatch.setattr(codebook.CodebookDetails, "model_validate", lambda _: None)
    for name, work in (
        ("_fits", lambda *_: None), ("building", lambda *_: nullcontext()),
        ("method_of", lambda *_: Method()), ("build_model", lambda *of: built.append(of)),
    ):  # fmt: skip
        monkeypatch.setattr(codebook, name, work)
    manifest: Any = SimpleNamespace(details={}, method="craft", settings={})
    with pytest.raises(ConfigError, match="it does not fit LVLM"):
        codebook.CodebookAdapter.open(Path("a"), manifest, backbone=object.__new__(LVLM))
    assert built == []


@pytest.fixture
def speaker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An adapter of two tasks, and what is asked of it."""
    asked: list[Any] = []
    names = [SimpleNamespace(name="birds", kind="answers"), SimpleNamespace(name="cats", kind="choice")]  # fmt: skip
    adapter = SimpleNamespace(
        manifest=SimpleNamespace(tasks=names), details=SimpleNamespace(prefixes=False),
        visuals=lambda root: f"below {root}", adapted=SimpleNamespace(model="model"),
    )  # fmt: skip

    def answers(_: Any, collator: Any, number: int, samples: Any) -> list[str]:
        asked.append((collator, number, samples))
        return ["first", "second"][: len(samples)]

    monkeypatch.setattr(text_training, "Collator", lambda model, tasks, prefixes: (model, tasks, prefixes))  # fmt: skip
    monkeypatch.setattr(text_training, "answers", answers)
    return SimpleNamespace(adapter=adapter, asked=asked)


@pytest.mark.parametrize(("task", "number"), [("", 0), ("birds", 0), ("cats", 1)])
def test_one_question_goes_to_the_task_that_is_named_or_the_first(
    speaker: Any, task: str, number: int, tmp_path: Path
) -> None:
    assert text_training.ask(speaker.adapter, "how many?", [tmp_path / "a.png"], task) == "first"
    [((model, tasks, prefixes), found, [sample])] = speaker.asked
    assert (model, prefixes, found) == ("model", False, number)
    assert [(one.name, one.task.name, one.visuals) for one in tasks] == [
        ("birds", "answers", "below /"), ("cats", "choice", "below /")
    ]  # fmt: skip
    assert (sample.text, sample.images) == ("how many?", (str(tmp_path / "a.png"),))
    text_training.ask(speaker.adapter, "how many?")
    assert {one.visuals for one in speaker.asked[-1][0][1]} == {None}
    with pytest.raises(ConfigError, match="Unknown task of this adapter 'dogs'"):
        text_training.ask(speaker.adapter, "how many?", (), "dogs")


@pytest.mark.parametrize("pictured", [True, False])
def test_a_task_is_scored_on_its_test_part(
    speaker: Any, pictured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"train": ("t",), "test": ("a", "b")}

    class Data(dict):  # type: ignore[type-arg]
        images, root = ["i.png"] * pictured, Path("/data")

        @property
        def parts(self) -> Any:
            return dict(self)

    scored: list[Any] = []
    task = SimpleNamespace(score=lambda samples, texts: (scored.append((samples, texts)), {"m": 1.0})[1])  # fmt: skip
    monkeypatch.setattr(text_training, "find", lambda kind: (kind, task)[1])
    assert text_training.evaluate(speaker.adapter, Data(parts), "cats") == {"m": 1.0}  # type: ignore[arg-type]
    [((_, tasks, prefixes), number, samples)] = speaker.asked
    assert (number, samples, prefixes) == (1, ("a", "b"), False)
    assert {one.visuals for one in tasks} == {"below /data" if pictured else None}
    assert scored == [(("a", "b"), ["first", "second"])]


@pytest.mark.parametrize("steps", [0, 7])
@pytest.mark.parametrize("kind", ["text", "codebook"])
def test_what_was_trained_is_as_in_prediction(
    kind: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = {"text": text_training, "codebook": codebook_training}[kind]
    run: list[Any] = []

    class Trained:
        def __init__(self, *given: Any, precision: str) -> None:
            self.recipe, self.precision = given[5], precision

        def run(self, callbacks: Any, **_: Any) -> None:
            assert isinstance(callbacks, Callbacks)
            assert self.precision == "bf16"
            run.append(self.recipe.steps)

    adapted: Any = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1)).train()
    adapted.model, adapted.head = SimpleNamespace(module=None), None
    monkeypatch.setattr(module, "Trainer", Trained)
    monkeypatch.setattr(module, "accelerate", lambda *_: SimpleNamespace(process_index=0, num_processes=1))  # fmt: skip
    monkeypatch.setattr(module, "make_optimizer", lambda *_: None)
    recipe = Recipe(steps=steps, batch_size=2)
    if kind == "codebook":
        monkeypatch.setattr(module, "BatchLoader", lambda *_: None)
        monkeypatch.setattr(module, "CodebookLoss", lambda *_: adapted)
        method: Any = SimpleNamespace(recipe=recipe, losses=lambda _: ())
        seconds = module.train(adapted, method, None, [1, 2, 3], seed=0, precision="bf16")
    else:
        monkeypatch.setattr(module, "GenerationLoss", lambda *_: adapted)
        task = SimpleNamespace(name="t", training=lambda _: [1, 2, 3], task=SimpleNamespace(batch_size=lambda base: base))  # fmt: skip
        seconds = module.train(adapted, SimpleNamespace(tasks=[task]), recipe, TextOptions(), seed=0, precision="bf16")  # fmt: skip
    assert seconds >= 0
    assert run == [steps] * bool(steps)
    assert not any(part.training for part in adapted.modules())


def test_a_thin_image_is_shown_a_pixel_wide(tmp_path: Path) -> None:
    truth = np.zeros((400, 1), dtype=np.uint8)
    for size, mask, wanted in (((1, 400), truth, (3, 160)), ((400, 1), truth.T, (480, 1))):
        overlays.write_overlay(tmp_path / "thin.webp", Image.new("RGB", size), mask, mask)
        with Image.open(tmp_path / "thin.webp") as shown:
            assert shown.size == wanted


def test_classes_that_an_image_lacks_are_left_out_and_masks_of_one_name_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = np.array([[2, 2], [0, 2]], dtype=np.uint8)
    written: list[Any] = []
    monkeypatch.setattr(segmented, "logits_of", lambda adapted, refs: [f"scores of {refs[0].path}"])  # noqa: ARG005  # fmt: skip
    monkeypatch.setattr(segmented, "load", lambda _: SimpleNamespace(size=(2, 2)))
    monkeypatch.setattr(segmented, "pixels_of", lambda scores, size, how, grid: written.append((scores, size, how, grid)) or found)  # fmt: skip
    monkeypatch.setattr(segmented, "write_mask", lambda path, mask: written.append((path, mask.tolist())))  # fmt: skip
    monkeypatch.setattr("petiole.data.inputs.as_images", lambda given: [SimpleNamespace(path=Path(one)) for one in given])  # fmt: skip
    backbone = SimpleNamespace(preprocessing="how", grid=(7, 7))
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(backbone=backbone), classes=["sky", "sea", "sand"])  # fmt: skip
    rows = segmented.SegmentationAdapter.predict_rows(adapter, ["a/x.png"])
    shares = {"sand": 0.75, "sky": 0.25}
    row = {"path": "a/x.png", "label": "sand 75.0 %, sky 25.0 %", "shares": shares}
    assert rows == [row]
    assert list(rows[0]["shares"]) == ["sand", "sky"]
    assert written == [("scores of a/x.png", (2, 2), "how", (7, 7))]
    written.clear()
    images = ["a/x.png", "b/x.png", "y.png", "c/x.jpg"]
    rows = segmented.SegmentationAdapter.predict_rows(adapter, images, masks=tmp_path)
    places = [tmp_path / f"{name}.png" for name in ("x", "x-2", "y", "x-3")]
    assert [row["mask"] for row in rows] == [str(place) for place in places]
    assert written[1::2] == [(place, found.tolist()) for place in places]
