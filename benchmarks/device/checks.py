"""Whether the device computes what the processor does.

    benchmarks/device/run.sh OUT

Tiny models with random weights, fp32 without TF32. *off* is the largest difference over the largest value. A step of
training may wait for nothing (``torch.cuda.set_sync_debug_mode``).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rows import keep, options
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.engine.precision import autocast
from petiole.engine.trainer import Callbacks
from petiole.tasks.classification.model import ClassificationLoss
from petiole.tasks.classification.training import labels_of, train
from petiole.tasks.codebook.batches import BatchLoader
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import CodebookLoss
from petiole.tasks.text.model import GenerationLoss
from petiole.testing import backbones
from petiole.testing.codebook_methods import CodebookCase
from petiole.testing.image_case import ImageCase, Memory, dataset
from petiole.testing.random_weights import seeded
from petiole.testing.text_methods import TextCase

CPU = torch.device("cpu")
IMAGES = {
    "vit": ["adaptertune", "lora-qkv", "vpt-deep", "cls-residual-lora", "linear-probe", "full"],
    "clip": ["coop", "cocoop", "maple", "promptsrc", "coop+textrefiner"],
    "resnet": ["cls-residual-lora"],
}
SOLVED = ["averaged-ridge", "ridge", "logistic-regression"]
TEXT, CODEBOOK = ["vl-adapter", "vl-lora", "vl-compacter"], ["craft"]
LIMITS = {"fp32": 2e-3, "bf16": 3e-2, "fp16": 5e-3}
CLOSE = LIMITS["fp32"]
State = Mapping[str, Tensor]


def off(got: State, want: State) -> float:
    """The largest difference over the largest value, over all tensors that have more than rounding in them."""
    found = 0.0
    for name, value in want.items():
        if (
            value.is_floating_point()
            and value.numel()
            and (most := float(value.abs().max())) > 1e-6
        ):
            found = max(found, float((got[name].cpu() - value.cpu()).abs().max()) / most)
    return found


def verdict(difference: float, limit: float) -> dict[str, Any]:
    """What a row says."""
    return {"off": f"{difference:.1e}", "limit": limit, "ok": difference <= limit}


class Checks:
    """All of them on one device."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device, self.folder = device, folder

    def case(self, name: str, family: str, device: torch.device) -> ImageCase:
        """A method on a tiny backbone that lives there."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        backbone = backbones.build(family, place / "model")
        backbone.to(device)
        return ImageCase(name, backbone, place / "adapter")

    def features(self, family: str, precision: Any) -> dict[str, Any]:
        """Every final role of a backbone."""
        found = []
        for device in (CPU, self.device):
            backbone: Backbone = self.case("linear-probe", family, device).backbone
            images = torch.randn(
                5, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(1)
            )
            with autocast(device, precision if device != CPU or self.device == CPU else "fp32"):
                state = backbone.lower(images.to(device), backbone.finals)
            found.append({role: value.float() for role, value in state.items()})
        return verdict(off(found[1], found[0]), LIMITS[precision])

    def training(self, name: str, family: str) -> dict[str, Any]:
        """What an adapter is after four steps, or solved."""
        on_cpu, here = (
            dict(self.case(name, family, device).train().state_dict())
            for device in (CPU, self.device)
        )
        return verdict(off(here, on_cpu), CLOSE)

    def narrow(self, name: str, precision: Any) -> dict[str, Any]:
        """What 40 steps in mixed precision lose of what they gain in fp32 on the device, as a share of that."""
        start, exact = self.losses(name, "fp32")
        return verdict(abs(self.losses(name, precision)[1] - exact) / abs(start - exact), 0.1)

    def losses(self, name: str, precision: Any) -> tuple[float, float]:
        """The first loss and the last of a training."""
        case, heard = self.case(name, "vit", self.device), list[float]()
        adapted = case.adapted()
        recipe = dataclasses.replace(case.method.recipe, steps=40)
        table = Memory(adapted, stored=True)
        callbacks = Callbacks(log=lambda _, loss, __: heard.append(loss), quiet=True)
        train(adapted, dataset(), table, recipe, seed=0, precision=precision, callbacks=callbacks)
        return heard[0], heard[-1]

    def resumed(self) -> dict[str, Any]:
        """A training that is interrupted in its middle, against one that is not: bit for bit."""
        case = self.case("adaptertune", "vit", self.device)
        whole = case.train().state_dict()
        stops = Callbacks(checkpoint=self.folder / "checkpoint", every=0.0, quiet=True)
        adapted = case.adapted()
        table = Memory(adapted, stored=True)
        recipe = case.method.recipe
        with suppress(KeyboardInterrupt), _interrupted(after=2, at=adapted.head):
            train(adapted, dataset(), table, recipe, seed=0, callbacks=stops)
            raise AssertionError("the training was not interrupted")
        again = case.adapted()
        train(again, dataset(), Memory(again, stored=True), recipe, seed=0, callbacks=stops)
        return {"ok": all(torch.equal(v, again.state_dict()[k]) for k, v in whole.items())}

    def waits(self, name: str, family: str) -> dict[str, Any]:
        """One step with the device's own alarm set."""
        case = self.case(name, family, self.device)
        adapted = case.adapted()
        recipe = case.method.recipe
        loss_module = ClassificationLoss(adapted, recipe.target_weight, recipe.label_smoothing)
        loss_module.train().to(self.device)
        state = Memory(adapted, stored=True).fetch(torch.arange(18), torch.zeros(18))
        labels, is_target = (t.to(self.device) for t in labels_of(dataset()))
        with adapted.attached():
            loss_module(state, labels, is_target).backward()
            with _alarm(self.device):
                loss_module(state, labels, is_target).backward()
        return {"ok": True}

    def text(self, name: str) -> dict[str, Any]:
        """Three steps of a method for language models."""

        def run(device: torch.device) -> State:
            case = TextCase(name, "bart")
            case.model.to(device)
            return stepped(GenerationLoss(case.adapted().to(device)), lambda: case.batch(), device)

        return verdict(off(run(self.device), run(CPU)), CLOSE)

    def codebook(self, name: str) -> dict[str, Any]:
        """Three steps of a method over a codebook."""

        def run(device: torch.device) -> State:
            case = CodebookCase(name, "llama", Path(tempfile.mkdtemp(dir=self.folder)))
            case.model.to(device)
            made = case.adapted().to(device)
            images = ImageFolder(case.data.root, case.model.tower)
            loader = BatchLoader(made, case.method, images, case.data["train"], 0, case.data)
            loss_module = CodebookLoss(made, case.method.losses(case.model)).to(device)
            with made.attached():
                return stepped(loss_module, lambda: loader(0, range(4), 0, 1), device)

        return verdict(off(run(self.device), run(CPU)), CLOSE)


def stepped(loss_module: nn.Module, batch: Callable[[], Any], device: torch.device) -> State:
    """What is trained, after three steps of AdamW."""
    own = {k: p for k, p in loss_module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(own.values(), lr=1e-3, weight_decay=0)
    loss_module.train()
    with seeded(3):
        for _ in range(3):
            optimizer.zero_grad()
            loss_module(moved(batch(), device)).backward()
            optimizer.step()
    return {k: p.detach() for k, p in own.items()}


def moved(value: Any, device: torch.device) -> Any:
    """Tensors inside a batch, put there."""
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **{k: moved(v, device) for k, v in parts.items()})
    return value


@contextmanager
def _interrupted(after: int, at: nn.Module) -> Iterator[None]:
    """Ctrl-C when the module is called once more than so often."""
    calls = count(1)

    def stop(*_: Any) -> None:
        if next(calls) > after:
            raise KeyboardInterrupt

    handle = at.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _alarm(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def main() -> None:
    chosen = options(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(chosen.device, Path(folder))
        for family in IMAGES:
            for precision in LIMITS:
                keep(
                    chosen,
                    "the same as on the processor",
                    f"features of {family}, {precision}",
                    lambda f=family, p=precision: checks.features(f, p),  # type: ignore[misc]
                )
        pairs = [(family, name) for family, names in IMAGES.items() for name in names]
        for family, name in [*pairs, *(("vit", name) for name in SOLVED)]:
            keep(
                chosen,
                "the same as on the processor",
                f"{name} on {family}",
                lambda f=family, n=name: checks.training(n, f),  # type: ignore[misc]
            )
        for name in TEXT:
            keep(chosen, "the same as on the processor", name, lambda n=name: checks.text(n))  # type: ignore[misc]
        for name in CODEBOOK:
            keep(chosen, "the same as on the processor", name, lambda n=name: checks.codebook(n))  # type: ignore[misc]
        for precision in ("bf16", "fp16"):
            keep(
                chosen,
                "mixed precision learns as fp32 does",
                f"adaptertune, {precision}",
                lambda p=precision: checks.narrow("adaptertune", p),  # type: ignore[misc]
            )
        keep(chosen, "the same as on the processor", "resumed, bit for bit", checks.resumed)
        for family, name in pairs:
            keep(
                chosen,
                "a step waits for nothing",
                f"{name} on {family}",
                lambda f=family, n=name: checks.waits(n, f),  # type: ignore[misc]
            )


if __name__ == "__main__":
    main()
