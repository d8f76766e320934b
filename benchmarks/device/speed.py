"""How fast the device computes: features, and training steps against what a user would write with timm and peft.

    benchmarks/device/run.sh OUT

Seconds are of the device: a step is timed between two synchronisations; medians of rounds in which the rivals take
turns. *Used* is the share of the FLOPs that a large bf16 matrix product reaches here (model FLOPs utilisation: Chowdhery
et al., 2022, appendix B). Memory is what torch allocated at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import cost
import timm
import torch
from rows import keep, machine, options
from torch.nn.functional import cross_entropy

import craft_speed
import prompt_speed
from petiole.backbones.base import Backbone
from petiole.backbones.encoder_decoder import Inputs
from petiole.backbones.encoder_decoder.loading import architecture, with_visual
from petiole.backbones.vision import vit
from petiole.data.preprocessing import Preprocessing
from petiole.device import Precision
from petiole.engine.memory import peak_memory
from petiole.engine.precision import autocast
from petiole.ledger.counting import flop_counter
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.tasks.codebook.adapter import build_model, method_of
from petiole.tasks.codebook.model import CodebookBatch, CodebookLoss
from petiole.tasks.text.adapter import method_of as text_method
from petiole.tasks.text.model import AdaptedTextModel, GenerationBatch, GenerationLoss

Step = Callable[[], object]
VITS = ("vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_large_patch14_dinov2")
BART = {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12}
BART |= {"decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}


class Speed:
    """All measurements on one device; ``dry`` makes them tiny."""

    def __init__(self, device: torch.device, *, dry: bool) -> None:
        self.device, self.dry = device, dry
        self.size, self.batch, self.rounds = (28, 2, 1) if dry else (224, 256, 7)
        self.peak = self.matrix_product()

    def seconds(self, step: Step) -> float:
        """Of one step, from one synchronisation to the next."""
        self.wait()
        start = time.perf_counter()
        step()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def medians(self, steps: dict[str, Step]) -> dict[str, float]:
        """Seconds of each; the rivals take turns, and the first two rounds warm up."""
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(self.rounds + 2):
            for name, step in steps.items():
                times[name].append(self.seconds(step))
        return {name: median(own[2:]) for name, own in times.items()}

    def matrix_product(self) -> float:
        """FLOPs a second of a large bf16 product."""
        n = 256 if self.dry else 8192
        a = torch.randn(n, n, device=self.device, dtype=torch.bfloat16)
        return 2 * n**3 / self.medians({"product": lambda: a @ a})["product"]

    def features(self, name: str, precision: Precision) -> dict[str, Any]:
        """Image vectors of a frozen ViT, images already on the device."""
        backbone = self.vit(name)
        images = torch.randn(self.batch, 3, self.size, self.size, device=self.device)

        def run() -> object:
            with autocast(self.device, precision):
                return backbone.lower(images, (backbone.vector,))

        with flop_counter() as counted:
            run()
        flops = counted.get_total_flops()
        with peak_memory(self.device) as peak:
            took = self.medians({name: run})[name]
            memory = peak()
        return {
            "images a second": round(self.batch / took),
            "used, %": round(100 * flops / took / self.peak, 1),
            "MB": round(memory),
        }

    def vit(self, name: str) -> Backbone:
        """Random weights of timm's architecture."""
        network = timm.create_model(name, num_classes=0, img_size=self.size).to(self.device)
        return vit.wrap(name, network, Preprocessing.symmetric(self.size))

    def blocks(self, precision: Precision) -> dict[str, dict[str, Any]]:
        """Training steps inside the blocks of a ViT-S/14, ours and the rivals'."""
        batch = 2 if self.dry else 64
        builders = cost.Bench(self.size, batch, precision, self.device).training()
        built: dict[str, Step] = {}
        memory = {}
        for name in builders:
            # Each on a network of its own: peft and full fine-tuning change theirs.
            bench = cost.Bench(self.size, batch, precision, self.device)
            built[name] = bench.training()[name]()
            with peak_memory(self.device) as peak:
                built[name]()
                memory[name] = peak()
        rows = self.medians(built)
        return {
            name: {"ms a step": round(1000 * took, 2), "MB": round(memory[name])}
            for name, took in rows.items()
        }

    def coop(self) -> dict[str, dict[str, Any]]:
        """A step of CoOp from stored image vectors, and the published equations in plain modules."""
        backbone = prompt_speed.towers()
        backbone.to(self.device)
        names = [f"thing number{i}" for i in range(prompt_speed.CLASSES)]
        ours = AdaptedClassifier(backbone, create("coop").plan(backbone, len(names)))
        ours.name(names)
        ours.to(self.device).train()
        plain = prompt_speed.Plain(backbone, names)
        vectors = torch.randn(prompt_speed.BATCH, 512, device=self.device)
        labels = torch.randint(len(names), (len(vectors),), device=self.device)

        def own() -> None:
            with ours.attached():
                torch.autograd.backward(
                    cross_entropy(ours({backbone.vector: vectors}).logits, labels)
                )

        def published() -> None:
            torch.autograd.backward(cross_entropy(plain(vectors), labels))

        found = self.medians({"coop, ours": own, "coop, plain modules, 77 slots": published})
        return {name: {"ms a step": round(1000 * took, 2)} for name, took in found.items()}

    def head(self) -> dict[str, dict[str, Any]]:
        """CLS-Residual LoRA's step on 120 stored vectors of width 1,280."""
        backbone = self.vit(VITS[0])
        method = create("cls-residual-lora")
        made = AdaptedClassifier(backbone, method.plan(backbone, 20)).to(self.device).train()
        loss_module = ClassificationLoss(made, 0.5, 0.0).to(self.device)
        state = {backbone.vector: torch.randn(120, backbone.width, device=self.device)}
        labels = torch.arange(20, device=self.device).repeat_interleave(6)
        is_target = (torch.arange(120, device=self.device) % 6) > 3
        own = [p for p in loss_module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(own, 1e-3, fused=True)

        def step() -> None:
            loss_module(state, labels, is_target).backward()
            optimizer.step()
            optimizer.zero_grad()

        found = self.medians({"cls-residual-lora, stored vectors": step})
        return {name: {"ms a step": round(1000 * took, 2)} for name, took in found.items()}

    def vl(self) -> dict[str, dict[str, Any]]:
        """VL-Adapter and full fine-tuning of a BART-base with 36 visual tokens."""
        layers = {"encoder_layers": 1, "decoder_layers": 1} if self.dry else {}
        batch, words, seen, target = (2, 5, 4, 3) if self.dry else (64, 20, 36, 10)
        steps: dict[str, Step] = {}
        for kind in ("vl-adapter", "vl-full"):
            language, family = architecture({"model_type": "bart", **BART, **layers})
            model = with_visual(kind, language, family, None, vision_width=2048)
            model.to(self.device)
            method = text_method(kind, {"tasks": 1})
            adapted = AdaptedTextModel(model, method.plan(model)).to(self.device)
            loss_module = GenerationLoss(adapted).train()
            ids = torch.randint(3, 50000, (batch, words), device=self.device)
            visual = torch.randn(batch, seen, 2048, device=self.device)
            data = GenerationBatch(
                Inputs(ids, torch.ones_like(ids, dtype=torch.bool), visual),
                torch.randint(3, 50000, (batch, target), device=self.device),
                torch.full((batch,), 1 / batch / target, device=self.device),
                (0,) * batch,
            )
            steps[kind] = self.optimised(loss_module, data)
        found = self.medians(steps)
        return {name: {"ms a step": round(1000 * took, 2)} for name, took in found.items()}

    def craft(self) -> dict[str, dict[str, Any]]:
        """CRAFT through a small and a large surrogate."""
        steps: dict[str, Step] = {}
        for kind in ("small",) if self.dry else craft_speed.SHAPES:
            surrogate = craft_speed.model(kind)
            surrogate.to(self.device)
            method = method_of("craft", {"contrast": 0.0})
            loss_module = CodebookLoss(build_model(method, surrogate), method.losses(surrogate))
            size, batch = craft_speed.TOWER["size"], 1 if self.dry else 16
            data = CodebookBatch(
                pictures=torch.randn(batch, 3, size, size, device=self.device),
                questions=[[10] * craft_speed.QUESTION] * batch,
                answers=[[20] * craft_speed.ANSWER] * batch,
                captions=[],
                texts=[],
                groups=[""] * batch,
            )
            steps[f"craft, {kind} surrogate"] = self.optimised(loss_module.to(self.device), data)
        found = self.medians(steps)
        return {name: {"ms a step": round(1000 * took, 2)} for name, took in found.items()}

    def optimised(self, loss_module: torch.nn.Module, data: Any) -> Step:
        """Loss, gradients and AdamW, under bf16."""
        own = [p for p in loss_module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(own, 1e-4, fused=True)

        def step() -> None:
            with autocast(self.device, "bf16"):
                loss = loss_module(data)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

        return step


def main() -> None:
    chosen = options(__doc__ or "")
    torch.manual_seed(0)
    speed = Speed(chosen.device, dry=chosen.dry)
    tera = {"TFLOP a second": round(speed.peak / 1e12, 2), "torch": torch.__version__}
    keep(chosen, "the machine", machine(chosen.device), lambda: tera)
    for name in VITS[:1] if chosen.dry else VITS:
        for precision in ("bf16", "fp32"):
            keep(
                chosen,
                "features",
                f"{name}, {precision}",
                lambda n=name, p=precision: speed.features(n, p),  # type: ignore[misc]
            )
    groups: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {
        "steps in the blocks of a ViT-S/14, bf16": lambda: speed.blocks("bf16"),
        "steps of prompts": speed.coop,
        "steps of a head": speed.head,
        "steps of a BART-base, bf16": speed.vl,
        "steps over a codebook, bf16": speed.craft,
    }
    for group, measure in groups.items():
        try:
            rows = measure()
        except Exception as error:  # the next group may work
            keep(chosen, group, "all", _raising(error))
            continue
        for name, row in rows.items():
            keep(chosen, group, name, lambda r=row: r)  # type: ignore[misc]


def _raising(error: Exception) -> Callable[[], dict[str, Any]]:
    def again() -> dict[str, Any]:
        raise error

    return again


if __name__ == "__main__":
    main()
