"""A real pretrained seq2seq without a hub: a BART that reads words aloud, from US to GB.

    python benchmarks/bart_g2p/run.py WEIGHTS OUT --seeds 3 --tune

WEIGHTS holds us_bart.safetensors, us_bart_config.json and gb_gold.json (github.com/mlalma/MisakiSwift, Apache-2.0): a BART with
0.75 M parameters, one block a side, that turns American words into phonemes, and a dictionary of British ones. Only words that its
vocabulary can spell are used. Words are split by their SHA-256: 80 % to learn from, 10 % for the choice of rates, 10 % for the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.encoder_decoder.loading import architecture, with_visual
from petiole.backbones.weights import load_strictly, read_json, read_safetensors
from petiole.data.text_sample import TextSample
from petiole.engine.run import RunSpec, run
from petiole.protocols import multitask
from petiole.protocols.jobs import average
from petiole.protocols.protocol import ComparisonRow
from petiole.report.multitask import summarise
from petiole.report.scores import table
from petiole.report.table import to_markdown, write
from petiole.tasks.text.collator import TaskData
from petiole.tasks.text.registry import find
from petiole.tasks.text.training import TextOptions
from petiole.tasks.text.workspace import TextGeneration, TextWorkspace

STEPS, BATCH, VALIDATED = 300, 64, 1000
BUDGET = {"steps": STEPS, "batch_size": BATCH, "tasks": 1}


class Characters:
    """One id a character. Letters and phonemes have tables of their own, which agree where they share one."""

    pad, start, end = 0, 1, 2

    def __init__(self, letters: str, phonemes: str) -> None:
        self.ids = {c: i for i, c in enumerate(letters) if c != "_"}
        for i, c in enumerate(phonemes):
            if c != "_" and self.ids.setdefault(c, i) != i:
                raise ValueError(f"{c!r} is {self.ids[c]} among letters and {i} among phonemes.")
        self.letters, self.phonemes = set(letters) - {"_"}, phonemes

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        ids = [self.ids[c] for c in text][: most and most - 2]
        return [self.start, *ids, self.end]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.phonemes[i] for i in ids if 2 < i < len(self.phonemes))


def model_of(folder: Path) -> Seq2Seq:
    """The American BART."""
    config = read_json(folder / "us_bart_config.json")
    tokenizer = Characters(config["grapheme_chars"], config["phoneme_chars"])
    plain = {
        k: v
        for k, v in config.items()
        if k not in ("architectures", "torch_dtype", "transformers_version")
    }
    language, family = architecture(plain)
    stored = read_safetensors(folder / "us_bart.safetensors")
    shared = stored["model.shared.weight"]
    tied = (
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    )
    load_strictly(language, {**dict.fromkeys(tied, shared), **stored}, "us_bart.safetensors")
    return with_visual("bart-g2p-us", language, family, tokenizer)


def words(folder: Path, tokenizer: Characters) -> TaskData:
    """British words, as the American vocabulary can spell and say them."""
    letters, phonemes = tokenizer.letters, set(tokenizer.phonemes)
    parts: dict[str, list[TextSample]] = {"train": [], "val": [], "test": []}
    for word, sounds in json.loads((folder / "gb_gold.json").read_text(encoding="utf-8")).items():
        if (
            isinstance(sounds, str)
            and set(word) <= letters
            and set(sounds) <= phonemes
            and len(word) < 60
        ):
            draw = int(hashlib.sha256(word.encode()).hexdigest(), 16) % 10
            part = {0: "test", 1: "val"}.get(draw, "train")
            parts[part].append(TextSample(word, word, (), {sounds: 1.0}, (sounds,)))
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return TaskData(find("text"), {k: tuple(v) for k, v in parts.items()}, digest=digest)


def workspace_of(model: Seq2Seq, data: TaskData) -> TextWorkspace:
    """Both of them, opened; nothing is loaded by name."""
    task = TextGeneration(model=model.name, tasks=(data.name,), quiet=True)
    return TextWorkspace(task, model, (data,))


def tuned(rows: list[dict], model: Seq2Seq, data: TaskData, out: Path) -> dict[str, float]:
    """The rate of each row that is best on the first validation words, seed 0."""
    few = TaskData(
        data.task, {**data.parts, "val": data.parts["val"][:VALIDATED]}, digest=data.digest
    )
    workspace, options = workspace_of(model, few), TextOptions(scored="val")
    chosen = {}
    for row in rows:
        scores = {}
        for lr in row.get("grid", ()):
            settings = {**BUDGET, **row.get("settings", {}), "lr": lr}
            folder = out / "tuning" / row["name"] / f"{lr:g}"
            spec = RunSpec(
                workspace.task, row["method"], folder, settings, options=options, resume=True
            )
            scores[lr] = 100 * average(run(spec, workspace))
        if scores:
            chosen[row["name"]] = max(scores, key=lambda lr: (scores[lr], -lr))
            print(row["name"], {f"{lr:g}": round(s, 1) for lr, s in scores.items()}, flush=True)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--only", nargs="*", default=())
    options = parser.parse_args()
    stated = tomllib.loads((Path(__file__).parent / "rows.toml").read_text(encoding="utf-8"))
    rows = [r for r in stated["rows"] if not options.only or r["name"] in options.only]
    model = model_of(options.weights)
    data = words(options.weights, model.tokenizer)  # type: ignore[arg-type]
    print({part: len(samples) for part, samples in data.parts.items()}, flush=True)
    rates = tuned(rows, model, data, options.out) if options.tune else {}
    study = multitask.Multitask.checked(
        rows=[
            ComparisonRow(
                name=r["name"],
                label=r["label"],
                method=r["method"],
                settings={
                    **BUDGET,
                    **r.get("settings", {}),
                    **({"lr": rates[r["name"]]} if r["name"] in rates else {}),
                },
            )
            for r in rows
        ],
        reference=stated["reference"],
        model=model.name,
        tasks=[data.name],
        seeds=options.seeds,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / multitask.STATE).write_text(study.model_dump_json(), encoding="utf-8")
    multitask.commonest([data], study.scored, options.out)
    workspace = workspace_of(model, data)
    for row in study.rows:
        for seed in range(study.seeds):
            folder = study.folder(options.out, row, seed)
            spec = RunSpec(workspace.task, row.method, folder, row.settings, seed=seed, resume=True)
            record = run(spec, workspace)
            print(
                row.name,
                seed,
                round(100 * average(record), 2),
                f"{record.costs.train_seconds:.0f} s",
                flush=True,
            )
    found = table(summarise(options.out))
    write(found, options.out)
    print(to_markdown(found))


if __name__ == "__main__":
    main()
