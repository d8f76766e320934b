"""The tables of docs/craft.md from the records of ``run.py`` and ``after.py``, as Markdown.

python benchmarks/craft_world/tables.py OUT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from run import DOMAINS

from petiole.metrics.statistics import MARGIN, Paired, paired_hierarchical, t_interval

NAMES = {"llama": "A", "gpt2": "B", "lfm2": "C", "small": "A-small"}
PAPER = {"zero-shot": 55.07, "zero-shot-continuous": 59.89, "vision-ft": 61.76, "craft": 68.58}
LABELS = {
    "zero-shot": "zero-shot, codes",
    "zero-shot-continuous": "zero-shot, continuous twin",
    "projector-ft": "projector FT",
    "llm-lora": "LLM-LoRA",
    "vision-ft": "vision FT, continuous twin",
    "craft": "**CRAFT**, surrogate A",
}


def short(name: str) -> str:
    """A language model's letter; ``c`` behind it for the continuous twin."""
    base, twin, _ = Path(name).name.partition("-continuous")
    return NAMES[base] + ("c" if twin else "")


@cache
def record(out: Path, base: int, where: str, row: str, seed: int) -> dict[str, Any] | None:
    """A finished run's, its models by letter; zero-shot rows have no seeds."""
    seed = 0 if row.startswith("zero-shot") else seed
    file = out / f"base{base}" / where / row / f"seed{seed}" / "record.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    found["scores"] = {short(name): scores for name, scores in found["scores"].items()}
    return found


@cache
def right(out: Path, base: int, where: str, row: str, seed: int, model: str) -> list[int] | None:
    """Which test questions a run answers right, before one language model."""
    seed = 0 if row.startswith("zero-shot") else seed
    folder = out / f"base{base}" / where / row / f"seed{seed}"
    if not (folder / "record.json").exists():
        return None
    for file in sorted((folder / "predictions").iterdir()):
        if short(file.stem.split(f"base{base}-")[-1]) == model:
            return [int(json.loads(line)["score"] > 0) for line in file.read_text().splitlines()]
    return None


def runs(out: Path, row: str, domains: Sequence[str] = DOMAINS) -> list[tuple[int, int]]:
    """(base, seed) of which the row has all domains."""
    pairs = [(base, seed) for base in (0, 1) for seed in range(3)]
    if row.startswith("zero-shot"):
        pairs = [(0, 0), (1, 0)]
    return [(b, s) for b, s in pairs if all(record(out, b, d, row, s) for d in domains)]


def score(out: Path, base: int, where: str, row: str, seed: int, model: str, what: str) -> float:
    found = record(out, base, where, row, seed)
    assert found is not None
    return float(found["scores"][model].get(what, float("nan")))


def mean_sd(values: Iterable[float]) -> str:
    """Mean ± sd, and of how many."""
    known = [v for v in values if v == v]
    if not known:
        return ""
    if len(known) == 1:
        return f"{known[0]:.1f}"
    return f"{mean(known):.1f} ± {stdev(known):.1f}"


def over_runs(values: Sequence[float]) -> str:
    """Mean of points and its t interval."""
    if len(values) < 2:
        return mean_sd(values)
    found = t_interval(values)
    return f"{found.mean:+.1f} [{found.low:.1f}, {found.high:.1f}]".replace("-", "−")


def model_of(row: str) -> str:
    return {"vision-ft": "Ac", "zero-shot-continuous": "Ac", "ldifs": "Ac"}.get(row, "A")


def difference(out: Path, row: str, other: str, model: str, other_model: str) -> Paired | None:
    """Row minus other over all domains' questions, on the runs that both have; runs and questions resampled."""
    both = [p for p in runs(out, row) if p in runs(out, other) or other.startswith("zero-shot")]
    a, b = [], []
    for base, seed in both:
        mine = [right(out, base, d, row, seed, model) for d in DOMAINS]
        theirs = [right(out, base, d, other, seed, other_model) for d in DOMAINS]
        if all(mine) and all(theirs):
            a.append([x for part in mine if part for x in part])
            b.append([x for part in theirs if part for x in part])
    return paired_hierarchical(np.array(a), np.array(b)) if a else None


def interval_of(d: Paired | None) -> str:
    if d is None:
        return ""
    near = max(-d.low, d.high) <= MARGIN
    verdict = (" (tie)" if near else " (undecided)") if d.low <= 0 <= d.high else ""
    return f"{100 * d.difference:+.1f} [{100 * d.low:.1f}, {100 * d.high:.1f}]{verdict}".replace(
        "-", "−"
    )


def table1(out: Path) -> None:
    print(
        "| exact match, % | sketch | false | xray | mean | runs | CRAFT minus it | paper's mean of ten |"
    )
    print("|---|---:|---:|---:|---:|---:|---|---:|")
    for row, label in LABELS.items():
        pairs, m = runs(out, row), model_of(row)
        each = {d: [score(out, b, d, row, s, m, "exact_match") for b, s in pairs] for d in DOMAINS}
        cells = [mean_sd(each[d]) for d in DOMAINS]
        total = mean_sd(map(mean, zip(*each.values(), strict=True)))
        gap = "" if row == "craft" else interval_of(difference(out, "craft", row, "A", m))
        paper = PAPER.get(row, "")
        print(f"| {label} | {' | '.join(cells)} | {total} | {len(pairs)} | {gap} | {paper} |")
    print()


def table2(out: Path) -> None:
    what = ("exact_match", "presence", "relevance", "faithfulness", "faithfulness_given")
    paper = {"llm-lora": "6.34", "projector-ft": "4.01", "craft": "75.98"}
    print("| on A, % | " + " | ".join(w.replace("_", " ") for w in what) + " | paper's presence |")
    print("|---|" + "---:|" * (len(what) + 1))
    for row in ("zero-shot", "projector-ft", "llm-lora", "craft"):
        pairs = runs(out, row)
        cells = [
            mean_sd(mean(score(out, b, d, row, s, "A", w) for d in DOMAINS) for b, s in pairs)
            for w in what
        ]
        print(f"| {LABELS[row]} | {' | '.join(cells)} | {paper.get(row, '')} |")
    print()


def gain(out: Path, base: int, seed: int, row: str, model: str, zero: str) -> float:
    """Mean over domains of after minus before."""
    return mean(
        score(out, base, d, row, seed, model, "exact_match")
        - score(out, base, d, zero, 0, model, "exact_match")
        for d in DOMAINS
    )


def table3(out: Path) -> None:
    print(
        "| encoder trained before | run on | before | after | gain [95 % interval over runs] | share of its own surrogate's gain | runs |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    own = {"A": "craft", "B": "craft-gpt2", "C": "craft-lfm2"}
    own |= {"Ac": "vision-ft", "Bc": "vision-ft-gpt2"}
    rows = [("craft", "ABC"), ("craft-gpt2", "BAC"), ("craft-lfm2", "CAB")]
    rows += [("vision-ft", ("Ac", "Bc")), ("vision-ft-gpt2", ("Bc", "Ac"))]
    for row, models in rows:
        zero = "zero-shot-continuous" if row.startswith("vision") else "zero-shot"
        pairs = runs(out, row)
        for m in models:
            gains = [gain(out, b, s, row, m, zero) for b, s in pairs]
            before = mean_sd(
                mean(score(out, b, d, zero, 0, m, "exact_match") for d in DOMAINS) for b, _ in pairs
            )
            after = mean_sd(
                mean(score(out, b, d, row, s, m, "exact_match") for d in DOMAINS) for b, s in pairs
            )
            ratio = ""
            if m != models[0] and m in own:
                shares = [
                    gain(out, b, s, row, m, zero) / gain(out, b, s, own[m], m, zero)
                    for b, s in pairs
                    if (b, s) in runs(out, own[m])
                ]
                if shares:
                    wide = f" ± {stdev(shares):.2f}" if len(shares) > 1 else ""
                    ratio = f"{mean(shares):.2f}{wide} ({len(shares)})"
            print(
                f"| {models[0]} | {m} | {before} | {after} | {over_runs(gains)} | {ratio} | {len(pairs)} |"
            )
    print()


def ablation(out: Path) -> None:
    """Sketch, base 0, whatever seeds there are."""
    names = (
        "craft",
        "no-captions",
        "no-alignment",
        "no-commitment",
        "discrete-bare",
        "with-end",
        "craft-small",
        "remember",
        "encoder-lora",
    )
    print("| sketch, base 0 | A | B | C | presence on A | perplexity of codes | residual | seeds |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in ("zero-shot", *names):
        pairs = [p for p in runs(out, row, ("sketch",)) if p[0] == 0]
        if not pairs:
            continue
        cells = [
            mean_sd(score(out, b, "sketch", row, s, m, "exact_match") for b, s in pairs)
            for m in "ABC"
        ]
        cells.append(mean_sd(score(out, b, "sketch", row, s, "A", "presence") for b, s in pairs))
        for what in ("perplexity", "residual"):
            ends = [record(out, b, "sketch", row, s)["diagnosis"]["end"][what] for b, s in pairs]  # type: ignore[index]
            cells.append(mean_sd(ends))
        print(f"| {row} | {' | '.join(cells)} | {len(pairs)} |")
    print()


def after(out: Path) -> None:
    """Pruning, entries, forgetting, pooled over what ``after.py`` has done."""
    found = [
        (base, d, json.loads(f.read_text()))
        for base in (0, 1)
        for d in DOMAINS
        for f in sorted((out / f"base{base}" / d / "craft").glob("seed*/after.json"))
    ]
    if not found:
        return
    keys = [k for k in found[0][2] if k[0] != "b" and not k.startswith(DOMAINS)]
    questions = sum(len(f[f"{d} tuned"]) for _, d, f in found)
    print(
        f"Pruning and entries: {len(found)} encoders, {questions:,} questions, on A; intervals over runs and questions.\n"
    )
    print("| condition | exact match, % | minus all tokens and entries |")
    print("|---|---:|---|")
    whole = np.array([f[f"{d} tuned"] for _, d, f in found])
    print(f"| all | {100 * whole.mean():.1f} | |")
    for key in keys:
        values = np.array([f[key] for _, _, f in found])
        print(
            f"| {key} | {100 * values.mean():.1f} | {interval_of(paired_hierarchical(values, whole))} |"
        )
    full, plain = (np.array([f[k] for _, _, f in found]) for k in ("full 0.8", "random 0.8"))
    print(f"\nfull minus random at 0.8: {interval_of(paired_hierarchical(full, plain))}\n")
    print(
        "| encoder for | base domain, original | tuned | routed | own domain, tuned | routed | base / own images sent to the tuned one |"
    )
    print("|---|---:|---:|---:|---:|---:|---|")
    for where in DOMAINS:
        own = [f for _, d, f in found if d == where]

        def percent(key: str, rows: list[dict[str, Any]] = own) -> str:
            return mean_sd(100 * mean(f[key]) for f in rows)

        shares = [mean_sd(100 * f[f"{d} share"] for f in own) for d in ("base", where)]
        print(
            f"| {where} | {percent('base original')} | {percent('base tuned')} | {percent('base routed')} | {percent(f'{where} tuned')} | {percent(f'{where} routed')} | {shares[0]} / {shares[1]} % |"
        )
    print()
    kept = sorted((out / "base0" / "sketch" / "remember").glob("seed*/after.json"))
    if kept:
        rows = [json.loads(f.read_text()) for f in kept]
        base, own = (mean_sd(100 * mean(r[f"{d} tuned"]) for r in rows) for d in ("base", "sketch"))
        print(
            f"With `remember=1` on sketch ({len(rows)} run): base domain {base}, own domain {own}.\n"
        )


def main() -> None:
    out = Path(sys.argv[1])
    for part in (table1, table2, table3, ablation, after):
        print(f"## {part.__name__}\n")
        part(out)
    gains = [gain(out, b, s, "craft", "A", "zero-shot") for b, s in runs(out, "craft")]
    if len(gains) > 1:
        interval = t_interval(gains)
        print(
            f"H1, gain of CRAFT on A over runs: {interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]"
        )


if __name__ == "__main__":
    main()
