"""From options to tasks: every option reaches its field, what was not said has its default, and what contradicts is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from petiole.commands import fit as fitting
from petiole.commands import options as shared
from petiole.commands import test_time as at_test_time
from petiole.commands.options import (
    CodebookTaskOptions,
    ImageOptions,
    InferenceOptions,
    ModelOptions,
    TextTaskOptions,
    default_folder,
    images_of,
    name_of,
    pruning,
    unwrapped,
)
from petiole.commands.placement import ClusterOptions, ExecutorOptions
from petiole.commands.robustness import RobustnessOptions
from petiole.commands.tasks import kind_of, open_task
from petiole.commands.tuning_options import TuningOptions
from petiole.data.corruptions import CORRUPTIONS
from petiole.data.dataset import Dataset
from petiole.engine.executor import Local
from petiole.errors import ConfigError
from petiole.layers.token_pruning import Pruning
from petiole.protocols.selection import Open
from petiole.protocols.settled import Tuning
from petiole.tasks.classification.workspace import Classification, Subset
from petiole.tasks.codebook.training import CodebookOptions
from petiole.tasks.codebook.workspace import CodebookQuestions
from petiole.tasks.text.training import TextOptions
from petiole.tasks.text.workspace import TextGeneration

MODEL = ModelOptions(
    backbone="b", weights=Path("w"), image_size=32, quantize="int8", device="cpu", precision="bf16",
    grad_checkpointing=True, compile=True, dtype="float16", cache_dir=Path("c"), skip_bad=True, quiet=True,
)  # fmt: skip
PLAIN = ModelOptions(backbone=["b"], device="cpu", cache_dir="c")  # type: ignore[arg-type]


def opened(kind: str, data: Any, methods: list[str], *groups: Any) -> Any:
    """``open_task`` with the groups that are given and the defaults of the others."""
    order = (ModelOptions, ImageOptions, TextTaskOptions, CodebookTaskOptions)
    given = {type(group): group for group in groups}
    return open_task(kind, data, methods, *(given.get(one, one()) for one in order))


def test_labelled_images() -> None:
    images = ImageOptions(
        source=Path("s"), test=Path("t"), test_fraction=0.25, shots=3, split_seed=7
    )
    task, subset = opened("classification", ["photos"], ["ridge"], MODEL, images)
    assert task == Classification(
        "b", Path("photos"), Path("s"), Path("t"), 0.25, weights=Path("w"), image_size=32,
        quantize="int8", device="cpu", precision="bf16", checkpointing=True, compiled=True,
        dtype="float16", cache=Path("c"), skip_bad=True, quiet=True,
    )  # fmt: skip
    assert subset == Subset(3, 7)
    task, subset = opened("classification", "photos", ["ridge"], PLAIN)
    assert task == Classification("b", Path("photos"), test_fraction=0.5, cache=Path("c"))
    assert subset == Subset(10, 0)
    assert opened("classification", "x", ["ridge"], PLAIN, ImageOptions(shots=0))[1].shots == 0
    assert opened("classification", "x", ["ridge"], PLAIN, ImageOptions(all_images=True))[1].shots is None  # fmt: skip
    with pytest.raises(ConfigError, match=r"--shots and --all-images say different things"):
        opened("classification", "x", ["ridge"], PLAIN, ImageOptions(shots=1, all_images=True))


@pytest.mark.parametrize(
    ("kind", "group", "said"),
    [
        ("classification", TextTaskOptions(visual_tokens=4), "--visual-tokens is for texts about images"),
        ("text", ImageOptions(shots=3), "--shots is for .*, and m is trained on texts about images"),
    ],
)  # fmt: skip
def test_an_option_of_another_kind_is_refused(kind: str, group: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{said}"):
        opened(kind, ["x"], ["m"], PLAIN, group)


def test_without_a_name_a_packaged_backbone_is_taken_that_fits(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("petiole.commands.defaults.backbone_for", lambda methods: "+".join(methods))
    task, _ = opened("classification", "x", ["a", "b"], ModelOptions(no_cache=True, cache_dir=Path("c")))  # fmt: skip
    assert (task.backbone, task.cache) == ("a+b", None)


def test_images_with_values() -> None:
    images = ImageOptions(source=Path("s"), test=Path("t"), test_fraction=0.25, shots=3, split_seed=7)  # fmt: skip
    task, subset = opened("regression", ["t.csv"], ["ridge"], MODEL, images)
    assert (task.kind, task.images, task.source, task.test) == (
        "regression",
        Path("t.csv"),
        Path("s"),
        Path("t"),
    )
    assert (task.test_fraction, task.backbone, task.skip_bad) == (0.25, "b", True)
    assert subset == Subset(3, 7)
    task, subset = opened("multilabel", "t.csv", ["ridge"], PLAIN)
    assert (task.kind, task.source, task.test, task.test_fraction) == ("multilabel", None, None, 0.5)  # fmt: skip
    assert subset == Subset(None, 0)
    for alone in (ImageOptions(split_seed=0), ImageOptions(split_seed=1, all_images=True)):
        with pytest.raises(ConfigError, match=r"unless --shots says how many"):
            opened("regression", "t.csv", ["ridge"], PLAIN, alone)


def test_texts_about_images() -> None:
    text = TextTaskOptions(
        vision_backbone="v", features=Path("f"), visual_tokens=4, visual=["boxes=false"],
        mode="mixed", fraction=0.25, no_prefixes=True, validation_part=True,
    )  # fmt: skip
    own = {f: getattr(MODEL, f) for f in ("backbone", "device", "precision", "cache_dir", "skip_bad", "quiet")}  # fmt: skip
    task, options = opened("text", ["a", "b"], ["vl-lora"], ModelOptions(**own), text)
    assert task == TextGeneration(
        "b", ("a", "b"), "v", Path("f"), 4, (("boxes", "false"),), "cpu", "bf16", Path("c"), True,
        quiet=True,
    )  # fmt: skip
    assert options == TextOptions("mixed", prefixes=False, fraction=0.25, scored="val")
    task, options = opened("text", "a", ["vl-lora"], ModelOptions(device="cpu", cache_dir=Path("c")))  # fmt: skip
    assert task == TextGeneration("petiole/tiny-vl", ("a",), cache=Path("c"))
    assert options == TextOptions("proportional", prefixes=True, fraction=1.0, scored="test")
    assert opened("text", "a", ["vl-lora"], TextTaskOptions(visual_tokens=0))[0].visual_tokens == 0


def test_questions_over_a_codebook() -> None:
    codebook = CodebookTaskOptions(["l", "m"], Path("g"), 0.5, "rarity", "compact")
    model = ModelOptions(backbone="b", device="cpu", precision="bf16", skip_bad=True, quiet=True)
    task, options = opened("codebook", ["q"], ["craft"], model, codebook)
    assert task == CodebookQuestions(
        "b", Path("q"), ("l", "m"), Path("g"), "cpu", "bf16", True, quiet=True
    )
    assert options == CodebookOptions(Pruning(0.5, "rarity", positions="compact"))
    task, options = opened("codebook", "q", ["craft"], ModelOptions(device="cpu"))
    assert task == CodebookQuestions("petiole/tiny-lvlm", Path("q"))
    assert options == CodebookOptions(None)
    with pytest.raises(ConfigError, match=r"craft is trained on one set of questions .*, not 2\."):
        opened("codebook", ["q", "r"], ["craft"], ModelOptions(device="cpu"))


def test_image_tokens_go_only_where_it_was_said_how_many() -> None:
    assert pruning(None, None, None) is None
    assert pruning(1.0, None, None) is None
    assert pruning(0.5, None, None) == Pruning(0.5, "full", positions="keep")
    assert InferenceOptions(keep=0.5, prune="random", positions="compact").pruning() == Pruning(0.5, "random", positions="compact")  # fmt: skip
    for keep, mode, positions in ((None, "full", None), (1, None, "keep"), (1.0, "full", "keep")):
        with pytest.raises(ConfigError, match=r"say how many stay: --keep 0\.8"):
            pruning(keep, mode, positions)


def test_columns_say_the_kind_of_task(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    columns = {"a": "labels", "b": "value", "c": "mask", "d": "label"}
    monkeypatch.setattr("petiole.data.targets.column_of", columns.get)
    kinds = [kind_of("classification", [name], ImageOptions()) for name in "abcde"]
    assert kinds == ["multilabel", "regression", "segmentation", "classification", "classification"]
    assert kind_of("text", ["a"], ImageOptions()) == "text"
    assert kind_of("classification", ["a"], ImageOptions(task="regression")) == "regression"


# --- one model ----------------------------------------------------------------------------------


def test_one_backbone_is_taken_where_one_is() -> None:
    assert ModelOptions().one_backbone is None
    assert ModelOptions().backbones == ()
    assert ModelOptions(backbone="b").one_backbone == ModelOptions(backbone=["b"]).one_backbone == "b"  # fmt: skip
    assert ModelOptions(backbone=["b", "c"]).backbones == ("b", "c")
    for several in (["b", "c"], ["auto"], "auto"):
        with pytest.raises(ConfigError, match=r"One backbone is taken here, not "):
            _ = ModelOptions(backbone=several).one_backbone


def test_folders_are_named_after_their_data() -> None:
    assert name_of("x/photos") == name_of([Path("x/photos.csv")]) == "photos"
    assert name_of(["a/x", "b/y.jsonl", "vqa=c/z", "w"]) == "x-y-z", "three at most"
    assert name_of([("a.png", 0)]) == name_of(np.zeros(3)) == "data"
    task = SimpleNamespace(data_digest=lambda: "0123456789")
    assert default_folder("x/photos", "compare", task) == Path("runs/photos-compare-01234567")  # type: ignore[arg-type]
    assert default_folder("x/photos", "", task) == Path("runs/photos-01234567")  # type: ignore[arg-type]


def test_a_list_of_one_path_is_that_path() -> None:
    assert unwrapped(["a"]) == "a"
    assert unwrapped((Path("a"),)) == Path("a")
    for other in (["a", "b"], [], "a", [3], None):
        assert unwrapped(other) is other
    assert images_of(["a"]) == Path("a")
    assert images_of(None) is images_of("") is None
    pixels = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    pixels[1] = 9
    given = [(image, label) for image, label in zip(pixels, ("x", "y"), strict=True)]
    for domain in ("target", "source"):
        data = images_of(given, domain)  # type: ignore[arg-type]
        assert isinstance(data, Dataset)
        assert set(data.domains) == {domain}


# --- where, and on what it is decided -----------------------------------------------------------


def test_executors(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert ClusterOptions().make() == ClusterOptions(executor="local").make() == Local()
    assert ExecutorOptions(processes=3).make() == Local(processes=3)
    assert ClusterOptions().cluster() is None
    with pytest.raises(ConfigError, match=r"This is done by one process here"):
        ExecutorOptions(processes=3).cluster()
    asked: list[Any] = []
    monkeypatch.setattr("petiole.engine.executor.executor", lambda name, **given: asked.append((name, given)))  # fmt: skip
    ClusterOptions("ray://h:1", 2.0, 0.5).make()
    ClusterOptions("ray", 0.0).make()
    assert asked == [
        ("ray", {"address": "h:1", "run_cpus": 2.0, "run_gpus": 0.5}),
        ("ray", {"run_cpus": 0.0}),
    ]


def test_settings_by_validation() -> None:
    assert TuningOptions().make() is None
    assert TuningOptions().share == 0.25
    assert TuningOptions(validation=0.5).share == 0.5
    assert TuningOptions(tune=True).make() == Tuning(0.25, 0, (), None)
    whole = TuningOptions(True, 3, ["rank=1,2"], "sqlite:///s", 0.5)
    assert whole.make() == Tuning(0.5, 3, ("rank=1,2",), "sqlite:///s")
    assert TuningOptions(tune=True, trials=1).make() == Tuning(0.25, 1)
    assert TuningOptions(validation=0.5).make(grids=True) is None
    for options, said in (
        (TuningOptions(trials=3), "--trials is for --tune"),
        (TuningOptions(trials=0), "--trials is for --tune"),
        (TuningOptions(validation=0.5), "--validation is for --tune"),
        (TuningOptions(tune=True, trials=0), "from 1 on, not 0"),
        (TuningOptions(tune=True, ranges=["a=1,2"]), "--range is for a search by Optuna"),
        (TuningOptions(tune=True, tune_storage="s"), "--tune-storage is for a search by Optuna"),
    ):
        with pytest.raises(ConfigError, match=said):
            options.make()


def test_ways_to_adapt_at_test_time() -> None:
    assert at_test_time.TestTimeOptions().method() is None
    made = at_test_time.TestTimeOptions("mta", ["views=8"]).method()
    assert made is not None
    assert (made.name, made.views) == ("mta", 8)
    with pytest.raises(ConfigError, match=r"Add --adapt lora-ttt"):
        at_test_time.TestTimeOptions(adapt_set=["views=8"]).method()


def test_attacks_and_corruptions() -> None:
    none = RobustnessOptions()
    assert (none.adversary(), none.corruptions(), none.severities()) == (None, (), (3,))
    assert none.radius() == 1 / 255
    some = RobustnessOptions("pgd", "4/255", 7, ["fog", "snow", "fog"], [5, 1, 5])
    assert some.corruptions() == ("fog", "snow")
    assert some.severities() == (5, 1)
    assert some.radius() == 4 / 255
    assert some.title() == "pgd, 4/255"
    assert some.adversary().steps == 7  # type: ignore[union-attr]
    assert RobustnessOptions("pgd").adversary().steps == 10  # type: ignore[union-attr]
    assert RobustnessOptions("fgsm").title() == "fgsm, 1/255"
    assert RobustnessOptions("fgsm", 0.0).title() == "fgsm, 0.0"
    assert RobustnessOptions(corrupt=["fog", "all"]).corruptions() == CORRUPTIONS
    assert len(CORRUPTIONS) == 15
    for options, said in (
        (RobustnessOptions(severity=[3]), "--severity is of corruptions"),
        (RobustnessOptions(epsilon=0.0), "--epsilon and --attack-steps are of an attack"),
        (RobustnessOptions(attack_steps=0), "--epsilon and --attack-steps are of an attack"),
        (RobustnessOptions("pgd", "2"), "--epsilon"),
        (RobustnessOptions("pgd", "x"), "--epsilon"),
        (RobustnessOptions("bad"), "bad"),
        (RobustnessOptions(corrupt=["fgo"]), "fog"),
        (RobustnessOptions(corrupt=["fog"], severity=[6]), "6"),
    ):
        with pytest.raises(ConfigError, match=said):
            options.adversary()


# --- fit ----------------------------------------------------------------------------------------


def test_what_is_left_open(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    left = fitting._left_open
    monkeypatch.setattr("petiole.backbones.registry.load_backbone", lambda name, device: None)  # noqa: ARG005
    assert left(ModelOptions(), "ridge", {"penalty": 1}, None) == Open((), False, 0.0)
    assert not left(ModelOptions(backbone="b"), "ridge", {}, None)
    assert left(ModelOptions(), "auto", {}, 2.5) == Open((), True, 2.5)
    assert left(ModelOptions(), "auto", {}, 0.0) == Open((), True, 0.0)
    assert left(ModelOptions(backbone=["b", "c"]), "ridge", {}, None) == Open(("b", "c"), False, 0.0)  # fmt: skip
    assert left(ModelOptions(backbone=["b", "b"]), "ridge", {}, None).backbones == ()
    monkeypatch.setattr("petiole.backbones.at_hand.at_hand", lambda: [SimpleNamespace(name="x"), SimpleNamespace(name="b")])  # fmt: skip
    assert left(ModelOptions(backbone=["b", "auto"]), "ridge", {}, None).backbones == ("b", "x")
    for method, settings, budget, said in (
        ("ridge", {}, 0.0, "--budget is for --method auto, and ridge was named"),
        ("auto", {"rank": 1}, None, r"--set rank=\.\.\. is for a named method"),
    ):
        with pytest.raises(ConfigError, match=said):
            left(ModelOptions(), method, settings, budget)


def test_where_it_is_tried() -> None:
    named, several = Open((), False, 0.0), Open(("b", "c"), False, 0.0)
    auto, budget = Open((), True, 0.0), Open((), True, 1.0)
    two = ExecutorOptions(processes=2)
    assert fitting._tried(named, "text", None, None) == {"tuning": None}
    assert fitting._tried(named, "text", None, ExecutorOptions()) == {"tuning": None}
    for left in (several, budget):
        assert fitting._tried(left, "classification", None, two) == {
            "tuning": None,
            "executor": Local(2),
        }
    assert fitting._tried(named, "classification", TuningOptions(True), two) == {
        "tuning": Tuning(),
        "executor": Local(2),
    }
    for left in (named, auto):
        with pytest.raises(ConfigError, match=r"are for what is tried beside the run"):
            fitting._tried(left, "classification", None, two)
    for left, kind in (
        (named, "regression"),
        (auto, "classification"),
        (several, "classification"),
    ):
        with pytest.raises(ConfigError, match=r"--tune is for one named method on labelled images"):
            fitting._tried(left, kind, TuningOptions(True), None)


def test_calibration_says_what_it_costs() -> None:
    notes = fitting._calibration_notes
    assert notes("text", "vl-lora", None) == notes("text", "vl-lora", 0) == []
    assert notes("classification", "ridge", 2) == [
        "calibration fits ridge up to 2 times more, each time without one of 2 parts of the target images"
    ]
    with pytest.raises(ConfigError, match=r"nothing|Nothing can be left out of 1 fold\(s\)"):
        notes("classification", "ridge", 1)
    with pytest.raises(ConfigError, match=r"ridge is trained on images with a number each"):
        notes("regression", "ridge", 2)


def test_a_run_is_called_by_method_draw_and_seed() -> None:
    assert fitting._what("peft:loha", Subset(3, 2), 1) == "peft-loha-split2-seed1"
    assert fitting._what("vl-lora", TextOptions(), 0) == "vl-lora-seed0"


def test_auto_is_a_ridge_where_targets_are_no_classes(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("petiole.data.targets.column_of", {"t": "value", "c": "label"}.get)
    which = fitting._kind_and_method
    assert which("auto", "t", ImageOptions(), None) == ("regression", "ridge")
    assert which("auto", "t", ImageOptions(), 0.0) == ("regression", "auto")
    assert which("lora-qkv", "t", ImageOptions(), None) == ("regression", "lora-qkv")
    assert which("auto", "c", ImageOptions(), None) == ("classification", "auto")
    assert which("vl-lora", "t", ImageOptions(), None) == ("text", "vl-lora")


def test_several_processes_train_one_named_model(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(fitting, "world", lambda: 2)
    for given in ({}, {"method": "ridge", "backbone": ["petiole/tiny-vit", "auto"]}):
        with pytest.raises(ConfigError, match=r"2 processes train one model, and auto tries"):
            fitting.fit("photos", **given)


def test_options_say_in_the_help_what_their_class_says_of_them() -> None:
    @shared.group("Title")
    class Some:
        """A group.

        Attributes:
            one: said in
                two lines.
            two: another.
        """

        one: int
        two: str = ""

    hints = Some.__annotations__
    assert hints["one"] == "Annotated[int, Parameter(help='said in two lines.')]"
    assert hints["two"] == "Annotated[str, Parameter(help='another.')]"
    with pytest.raises(KeyError):

        @shared.group("Title")
        class Unsaid:
            """A group.

            Attributes:
                one: said.
            """

            other: int


def test_narrow_units_and_devices(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from petiole import device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.device("auto") == "cuda"
    monkeypatch.setattr(device, "world", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device.device("auto") == device.device("cuda") == "cuda:3"
    assert device.device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {"cuda:0": (7, 5), "cuda:1": (6, 1)}.get)  # fmt: skip
    assert device.narrow_unit("cuda:0") == ("fp16", "this GPU")
    assert device.narrow_unit("cuda:1") is None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)  # fmt: skip
    assert device.narrow_unit("cuda") == ("bf16", "this GPU")
    assert device.narrow_unit("mps") is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("none", "tf32"), "in convolutions"), (("tf32", "tf32"), "in products and convolutions"), (("none", "ieee"), "nowhere")],
)  # fmt: skip
def test_what_cuda_rounds_is_said(
    flags: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from petiole import device

    assert not device.cuda_arithmetic()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "card")
    products, convolutions = (SimpleNamespace(fp32_precision=flag) for flag in flags)
    monkeypatch.setattr(torch.backends.cuda, "matmul", products)
    monkeypatch.setattr(torch.backends.cudnn, "conv", convolutions)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    found = device.cuda_arithmetic()
    assert (found["gpu"], found["tf32"], found["cudnn algorithms"]) == ("card", said, "without a trial")  # fmt: skip
