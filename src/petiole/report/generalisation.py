"""The table of a generalisation: accuracy where a method was trained, elsewhere, and the two as one number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from petiole.metrics.harmonic import harmonic_mean, hm_of_means, mean_of_hms
from petiole.metrics.statistics import t_interval
from petiole.protocols import headroom
from petiole.protocols.generalisation import Generalisation, scores, transductive
from petiole.report.formatting import mean_sd
from petiole.report.scores import Found, ScoreSummary, how_compared, score_rows, seeds_of

PAIR = "base-to-novel"


def summarise(root: Path) -> ScoreSummary:
    """Compute the table from the records below ``root``.

    Raises:
        RunError: no measurement, or a run that is missing or damaged.
    """
    protocol = Generalisation.read(root)
    records = {row.name: protocol.records(root, row) for row in protocol.rows}
    found = {row.name: scores(protocol, root, row) for row in protocol.rows}
    heads = {name: _headline(protocol, places) for name, places in found.items()}

    def more(name: str) -> dict[str, Any]:
        taught = transductive(protocol.row(name).method)
        return {"transductive": taught, **(_means(found[name]) if protocol.kind == PAIR else {})}

    rows = score_rows(protocol, records, found, heads, more)
    room = headroom.accuracies(root, protocol.seeds)
    return ScoreSummary(
        protocol,
        f"{protocol.kind} on {protocol.data}",
        rows,
        headline="HM" if protocol.kind == PAIR else "average",
        notes=notes(protocol) + ([room_to_move(room)] if room else []),
        facts={"kind": protocol.kind, "data": protocol.data} | ({"headroom": room} if room else {}),
    )


def _means(places: Found) -> dict[str, Any]:
    """The papers' "average HM" is that of the means; it is what is shown."""
    base, novel = places["base"], places["novel"]
    return {"hm_of_means": hm_of_means(base, novel), "mean_of_hms": mean_of_hms(base, novel)}


def _headline(protocol: Generalisation, places: Found) -> Sequence[float]:
    """One number a seed."""
    if protocol.kind == PAIR:
        return [harmonic_mean(b, n) for b, n in zip(places["base"], places["novel"], strict=True)]
    return [fmean(values) for values in zip(*(places[p] for p in protocol.places), strict=True)]


def room_to_move(found: Mapping[str, Found]) -> str:
    """What names alone and labelled images give on each half, in words."""
    labels = {headroom.ZERO_SHOT: "zero-shot", **headroom.LABELLED}

    def said(method: str) -> str:
        halves = (f"{mean_sd(t_interval(found[method][h]), 1)} {h}" for h in headroom.HALVES)
        return f"{labels[method]} {', '.join(halves)}"

    return (
        f"Room to move: {'; '.join(map(said, found))}. Class means and probe see labelled images of the half that they are "
        "tested on, of the novel one too, so they are no rows."
    )


def notes(protocol: Generalisation) -> list[str]:
    """What a reader must know."""
    shots = "all images" if protocol.shots is None else f"{protocol.shots} shots a class"
    if protocol.kind == "few-shot":
        shots = "columns by the shots of each class"
    found = [
        f"Accuracy in per cent, mean ± sd over {seeds_of(protocol)} (a draw of the shots and a start each), {shots}, "
        f"the last step's weights. {how_compared(protocol)}"
    ]
    if protocol.kind == PAIR:
        found.append(
            "Base classes are the first half by label order, novel the rest; each half is tested "
            "with its own names only. HM is that of the mean accuracies, as the papers print it; "
            "differences are means of the seeds' HMs."
        )
    if protocol.known and protocol.kind != "elsewhere":
        found.append(
            f"Zero-shot rows read the template published for {protocol.known}, unless told otherwise."
        )
    if protocol.published:
        found.append(
            "CoOp, PromptSRC and CLIP-LoRA trained as published for each number of shots, unless told "
            "otherwise."
        )
    if any(transductive(row.method) for row in protocol.rows):
        found.append(
            "Transductive rows trained on unlabelled images of the novel classes too: do not compare "
            "them with the others."
        )
    return found
