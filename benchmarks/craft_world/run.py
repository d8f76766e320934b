"""CRAFT and its rivals on three domains of the board: every run of docs/craft.md.

Runs are records of `petiole.engine.run`; what is there already is left as it is, so that the command can be repeated, and
shared by several processes (``--part 0/2``).

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/craft_world/run.py MODELS OUT --base 0
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.loading import load_lvlm
from petiole.data.readers.jsonl import open_plain
from petiole.data.synthetic.boards import write
from petiole.data.text_dataset import TextDataset
from petiole.engine.run import RunSpec, run
from petiole.tasks.codebook.workspace import CodebookQuestions, CodebookWorkspace

DOMAINS = ("sketch", "false", "xray")
A, B, C = "llama", "gpt2", "lfm2"


@dataclass(frozen=True)
class Row:
    """One line of a table: a method, the model that it is trained with, and those that it is scored with too."""

    method: str
    model: str = A
    others: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    general: bool = False


ANCHORED = {"lr": 1e-3, "contrast": 1.0, "commit": 1.0}
BARE = {"lr": 1e-3, "describe": 1.0}
"""Settings of rows that train the encoder, each the best of a pilot on data of another seed (docs/craft.md)."""

MAIN = {
    "zero-shot": Row("lvlm-zero-shot", A, (B, C)),
    "zero-shot-continuous": Row("lvlm-zero-shot", "llama-continuous", ("gpt2-continuous",)),
    "craft": Row("craft", A, (B, C), ANCHORED),
    "vision-ft": Row("vision-ft", "llama-continuous", ("gpt2-continuous",), BARE),
    "craft-gpt2": Row("craft", B, (A, C), ANCHORED),
    "projector-ft": Row("projector-ft"),
    "llm-lora": Row("llm-lora"),
    "craft-lfm2": Row("craft", C, (A, B), ANCHORED),
    "vision-ft-gpt2": Row("vision-ft", "gpt2-continuous", ("llama-continuous",), BARE),
    "ldifs": Row("ldifs", "llama-continuous", ("gpt2-continuous",), BARE),
}
"""On every domain, with every base."""

MORE = {
    "zero-shot-small": Row("lvlm-zero-shot", "small"),
    "craft-small": Row("craft", "small", (A, B, C), ANCHORED),
    "no-captions": Row("craft", A, (B, C), ANCHORED | {"contrast": 0.0}),
    "no-commitment": Row("craft", A, (B, C), ANCHORED | {"commit": 0.0}),
    "no-alignment": Row("craft", A, (B, C), ANCHORED | {"sal": 0.0}),
    "discrete-bare": Row("vision-ft-discrete", A, (B, C), {"lr": 1e-3}),
    "contrast-0.1": Row("craft", A, (B, C), ANCHORED | {"contrast": 0.1}),
    "with-end": Row("craft", A, (B, C), ANCHORED | {"end": True}),
    "llm-lora-no-end": Row("llm-lora", A, (), {"end": False}),
    "remember": Row("craft", A, (B, C), ANCHORED | {"remember": 1.0}, general=True),
    "encoder-lora": Row("craft", A, (B, C), ANCHORED | {"encoder": "lora-qkv", "lr": 3e-3}),
    "vision-ft-no-captions": Row(
        "vision-ft", "llama-continuous", ("gpt2-continuous",), BARE | {"describe": 0.0}
    ),
}
"""On one domain, with one base."""


@cache
def model(home: Path) -> LVLM:
    """A language model with its tower."""
    return load_lvlm(str(home))


@cache
def domain(out: Path, name: str) -> TextDataset:
    """Questions of a domain, drawn when they are first wanted."""
    folder = out / "data" / name
    if not folder.exists():
        write(folder, name, train=2000, val=100, test=600, seed=1)
    return open_plain(folder)


def workspace_of(home: Path, out: Path, row: Row, where: str) -> CodebookWorkspace:
    """A row's models and a domain's questions, opened; each is loaded once a process."""
    data = domain(out, where)
    general = domain(out, "base") if row.general else None
    task = CodebookQuestions(
        str(home / row.model),
        data.root,
        tuple(str(home / other) for other in row.others),
        general.root if general else None,
        precision="bf16",
        quiet=True,
    )
    others = tuple(model(home / other) for other in row.others)
    return CodebookWorkspace(task, model(home / row.model), data, others, general)


def run_one(
    chosen: argparse.Namespace, base: int, name: str, row: Row, where: str, seed: int
) -> None:
    """One run, unless it is there."""
    folder = chosen.out / f"base{base}" / where / name / f"seed{seed}"
    if (folder / "record.json").exists():
        return
    workspace = workspace_of(chosen.models / f"base{base}", chosen.out, row, where)
    steps = {} if row.method == "lvlm-zero-shot" else {"steps": chosen.steps}
    settings = steps | row.settings
    spec = RunSpec(workspace.task, row.method, folder, settings, seed=seed, resume=True)
    record = run(spec, workspace)
    scores = {Path(k).name: round(v["exact_match"], 1) for k, v in record.scores.items()}
    print(base, where, name, seed, scores, f"{record.costs.train_seconds:.0f} s", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", type=Path, help="what benchmarks/tiny_lvlm made")
    options.add_argument("out", type=Path)
    options.add_argument("--base", type=int, nargs="+", default=[0, 1])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=120)
    options.add_argument("--domains", nargs="+", default=[*DOMAINS])
    options.add_argument("--rows", nargs="+", default=[*MAIN])
    options.add_argument("--part", default="0/1")
    chosen = options.parse_args()
    part, parts = map(int, chosen.part.split("/"))
    table = MAIN | MORE
    jobs = list(product(range(chosen.seeds), chosen.base, chosen.domains, chosen.rows))
    for seed, base, where, name in jobs[part::parts]:
        if table[name].method != "lvlm-zero-shot" or seed == 0:
            run_one(chosen, base, name, table[name], where, seed)


if __name__ == "__main__":
    main()
