"""What is asked of CRAFT's encoders once they are trained: pruning, fewer codebook entries, the base domain, a probe.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/craft_world/after.py MODELS OUT --base 0

Writes ``after.json`` beside each record: which questions were answered right in each condition. Answers are cut after
four tokens, because the short part is all that is scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from run import DOMAINS, A, domain, model

from petiole.data.text_sample import TextSample
from petiole.files import write_json
from petiole.layers.token_pruning import Pruning
from petiole.methods.base import Changes
from petiole.tasks.codebook.adapter import CodebookAdapter
from petiole.tasks.codebook.images import ImageFolder, VisionOutputs
from petiole.tasks.codebook.model import AdaptedCodebookModel
from petiole.tasks.codebook.routing import routed
from petiole.tasks.codebook.training import answers
from petiole.tasks.text.registry import find

KEPT = (0.9, 0.8, 0.6, 0.4, 0.2)
MODES = ("random", "rarity", "rarity+residual", "full", "uniform")
SHARES = (0.5, 0.25, 0.1)


def right(
    adapted: AdaptedCodebookModel,
    vision_outputs: VisionOutputs,
    samples: Sequence[TextSample],
    pruning: Pruning | None = None,
    frequencies: torch.Tensor | None = None,
) -> list[int]:
    """Which samples are answered right, 1 or 0 each."""
    texts = answers(adapted, vision_outputs, samples, pruning, frequencies, longest=4)
    return [int(score > 0) for score in find("question").by_sample(samples, texts)]


def pruned(
    file: CodebookAdapter, vision_outputs: VisionOutputs, samples: Sequence[TextSample]
) -> dict[str, list[int]]:
    """All modes at 0.8, and the full one at every share."""
    wanted = [(mode, 0.8) for mode in MODES] + [("full", keep) for keep in KEPT if keep != 0.8]
    return {
        f"{mode} {keep}": right(
            file.adapted, vision_outputs, samples, Pruning(keep, mode), file.frequencies.tuned
        )
        for mode, keep in wanted
    }


def restricted(
    file: CodebookAdapter, vision_outputs: VisionOutputs, samples: Sequence[TextSample]
) -> dict[str, list[int]]:
    """Only the most frequent entries of the domain may be chosen."""
    tower, whole = file.adapted.model.tower, file.adapted.model.tower.quantiser
    found = {}
    for share in SHARES:
        tower.quantiser = whole.keep(file.frequencies.tuned.mean(dim=0), share)
        fewer = VisionOutputs(tower.quantised(vision_outputs.all.z), vision_outputs.places)
        found[f"entries {share}"] = right(file.adapted, fewer, samples)
    tower.quantiser = whole
    return found


def evaluate_one(chosen: argparse.Namespace, base: int, where: str, row: str, seed: int) -> None:
    """One encoder."""
    folder = chosen.out / f"base{base}" / where / row / f"seed{seed}"
    if (folder / "after.json").exists() or not (folder / "record.json").exists():
        return
    surrogate = model(chosen.models / f"base{base}" / A)
    file = CodebookAdapter.load(folder, backbone=surrogate)
    adapted, bare = file.adapted, AdaptedCodebookModel(surrogate, Changes(), Changes())
    found: dict[str, list[int] | float] = {}
    for name in (where, "base"):
        data = domain(chosen.out, name)
        samples = data["test"]
        names = [s.images[0] for s in samples]
        image_folder = ImageFolder(data.root, surrogate.tower)
        tuned, original = (
            image_folder.vision_outputs(adapted, names),
            image_folder.vision_outputs(bare, names),
        )
        both, own = routed(tuned.all, original.all, file.frequencies, surrogate.tower)
        found |= {
            f"{name} tuned": right(adapted, tuned, samples),
            f"{name} original": right(adapted, original, samples),
            f"{name} routed": right(adapted, VisionOutputs(both, tuned.places), samples),
            f"{name} share": float(own.float().mean()),
        }
        if name == where and row == "craft":
            found |= pruned(file, tuned, samples)
            found |= restricted(file, tuned, samples)
    write_json(folder / "after.json", found)
    print(base, where, row, seed, {k: _mean(v) for k, v in found.items()}, flush=True)


def _mean(value: list[int] | float) -> float:
    return round(value if isinstance(value, float) else 100 * sum(value) / len(value), 3)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--base", type=int, nargs="+", default=[0, 1])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--rows", nargs="+", default=["craft"])
    options.add_argument("--domains", nargs="+", default=[*DOMAINS])
    chosen = options.parse_args()
    with torch.no_grad():
        for base in chosen.base:
            for seed in range(chosen.seeds):
                for where in chosen.domains:
                    for row in chosen.rows:
                        evaluate_one(chosen, base, where, row, seed)


if __name__ == "__main__":
    main()
