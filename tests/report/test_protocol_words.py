"""Notes, headlines and rows of the other protocols, whole, from numbers that are stated here."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builders.summaries import BASE, OURS, against, interval, run
from petiole.metrics.intervals import t_interval
from petiole.protocols import continual, generalisation, multitask
from petiole.protocols.continual import Continual
from petiole.protocols.protocol import rows_of
from petiole.report import continual as of_sequence
from petiole.report import generalisation as of_places
from petiole.report import multitask as of_tasks
from petiole.report import transfer as of_cells
from petiole.report.transfer import TransferRow, TransferSummary, Versus


def test_notes_of_many_tasks() -> None:
    terms = {"rows": rows_of(["vl-lora"]), "model": "m", "tasks": ["vqa"], "seeds": 2}
    notes = of_tasks.notes(multitask.Multitask.checked(**terms))
    assert notes[0] == (
        "m, 2 seeds (a start and an order of batches each), mean ± sd; the last step's weights, scored once on test; all methods "
        "with the same hard prompts."
    )
    part = of_tasks.notes(multitask.Multitask.checked(**terms, fraction=0.25, prefixes=False, scored="val"))  # fmt: skip
    assert part[0] == (
        "m, 2 seeds (a start and an order of batches each), mean ± sd; 25 % of the training samples; the last step's weights, "
        "scored once on val; all methods without hard prompts."
    )


def test_notes_of_a_generalisation() -> None:
    base = generalisation.plan("pets", rows_of(["coop"]), reference="", shots=4, seeds=2)
    assert of_places.notes(base)[0].startswith(
        "Accuracy in per cent, mean ± sd over 2 seeds (a draw of the shots and a start each), 4 shots a class, the last step's "
    )
    assert [note[:30] for note in of_places.notes(base)[1:]] == ["Base classes are the first hal"]
    known = generalisation.plan("pets", rows_of(["coop", "promptkd"]), reference="", shots=None, seeds=2, known="OxfordPets")  # fmt: skip
    notes = of_places.notes(known)
    assert "each), all images, the last" in notes[0]
    assert [note[:33] for note in notes[1:]] == [
        "Base classes are the first half b", "Zero-shot rows read the template ", "Transductive rows trained on unla",
    ]  # fmt: skip
    elsewhere = generalisation.plan("pets", rows_of(["coop"]), reference="", shots=4, seeds=2, known="OxfordPets", places=["cars"])  # fmt: skip
    assert len(of_places.notes(elsewhere)) == 1
    few = generalisation.few_shot("pets", rows_of(["coop"]), [1], reference="", seeds=2, published=True)  # fmt: skip
    assert "columns by the shots of each class" in of_places.notes(few)[0]
    assert of_places.notes(few)[1].startswith("CoOp, PromptSRC and CLIP-LoRA trained as published")


def test_headlines_of_a_generalisation() -> None:
    base = generalisation.plan("pets", rows_of(["coop"]), reference="", shots=4, seeds=2)
    places = {"base": [0.9, 0.5], "novel": [0.6, 0.5]}
    assert of_places._headline(base, places) == pytest.approx([0.72, 0.5])
    means = of_places._means(places)
    assert means["mean_of_hms"] == pytest.approx(0.61)
    assert means["hm_of_means"] == pytest.approx(2 * 0.7 * 0.55 / 1.25)
    few = generalisation.few_shot("pets", rows_of(["coop"]), [1, 2], reference="", seeds=2)
    assert of_places._headline(few, {"1": [0.5, 0.6], "2": [0.7, 0.9], "x": [9, 9]}) == pytest.approx([0.6, 0.75])  # fmt: skip
    room = {
        "zero-shot": {"base": [0.5], "novel": [0.25]},
        "class-means": {"base": [0.5, 0.75], "novel": [0.25, 0.25]},
        "logistic-regression": {"base": [0.5], "novel": [0.125]},
    }
    assert of_places.room_to_move(room).startswith(
        "Room to move: zero-shot 50.0 base, 25.0 novel; class means 62.5 ± 17.7 base, 25.0 ± 0.0 novel; a linear probe 50.0 "
        "base, 12.5 novel. Class means and probe see"
    )


def test_notes_of_a_sequence() -> None:
    study = continual.plan(["a", "b"], "ridge", {}, shots=3, memory=2, seeds=2)
    matrices = {
        "routed": [[[0.5], [0.25, 0.75]], [[0.75], [0.5, 0.25]]],
        "told": [[[0.5], [0.5, 0.5]]] * 2,
    }
    notes = of_sequence.notes(study, matrices)
    assert notes[0].startswith(
        "Accuracy in per cent after the last task, mean ± sd over 2 seeds (a draw of the shots and a start each), 3 shots a "
        "class; replay keeps 2 of each earlier class."
    )
    assert notes[1] == (
        "an adapter a task, routed by class means: average forgetting 25.0 ± 0.0; accuracy on each task after a: 62.5; after b: "
        "37.5 50.0."
    )
    assert "average forgetting 0.0 ± 0.0" in notes[2]
    every = continual.plan(["a", "b"], "ridge", {}, shots=None, memory=2, seeds=2)
    assert "each), all images; replay" in of_sequence.notes(every, {})[0]


def test_a_sequence_has_the_last_accuracies(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    study = continual.plan(["a", "b"], "ridge", {}, shots=3, memory=2, seeds=2)
    study.write(tmp_path)
    matrix = {way: [[[0.5], [0.25, 0.75]], [[0.75], [0.5, 0.5]]] for way in continual.WAYS}
    monkeypatch.setattr(of_sequence, "matrices", lambda _: matrix)
    monkeypatch.setattr(Continual, "records", lambda *_: [run(0), run(1, 9)])
    monkeypatch.setattr(Continual, "adapters", lambda _, __, seed: [run(0, 100), run(0, 10 * seed)])
    found = of_sequence.summarise(tmp_path)
    routed, told, replay = found.rows
    assert routed.scores["a"] == t_interval([0.25, 0.5])
    assert routed.scores["b"] == t_interval([0.75, 0.5])
    assert routed.by_seed == [0.5, 0.5]
    assert (routed.trainable, told.trainable, replay.trainable) == (110, 110, 9)
    assert found.title == "ridge on a, b, one after the other"


def versus(**more: Any) -> Versus:
    terms: dict[str, Any] = {"name": "full", "label": "Full", "wins": 3, "ties": 1, "undecided": 2, "losses": 4,
                             "gain": interval(0.0123, 0.02)}  # fmt: skip
    return Versus(**{**terms, **more})


def transferred(*rows: TransferRow, **more: Any) -> TransferSummary:
    terms: dict[str, Any] = {"rows": list(rows), "versus": [versus()], "reference": "Ours", "seeds": 3, "margin": 0.01,
                             "unfinished": ["a/b", "c/d"], "claims": [{"source": "abstract", "against": "full", "says": "better", "doubt": "Of what?"}]}  # fmt: skip
    return TransferSummary(**{**terms, **more})


def test_sentences_of_a_transfer() -> None:
    assert of_cells.sentences(transferred()) == [
        "Ours against Full: 3 wins, 1 ties, 2 undecided, 4 losses over 10 pairs of data set and backbone; mean gain +1.2 points "
        "[−0.8, 3.2].",
        "Published (abstract), against full: better. Of what?",
        "Not finished, so not in the table: a/b, c/d.",
    ]
    one = versus(wins=1, ties=0, undecided=0, losses=0)
    assert of_cells.sentences(transferred(versus=[one], claims=[], unfinished=[])) == [
        "Ours against Full: 1 wins, 0 ties, 0 losses over 1 pairs of data set and backbone; mean gain +1.2 points."
    ]
    assert of_cells.legend(transferred()).startswith(
        "Mean ± sd over 3 seeds of one split. Difference"
    )
    assert of_cells.legend(transferred(seeds=1)).startswith(
        "One seed. Difference and verdict are against Ours, over"
    )


def test_cells_are_parts_of_a_transfer_s_table() -> None:
    cells = [("a", "v"), ("a", "v"), ("a", "w"), ("b", "w")]
    rows = [
        TransferRow(
            data, backbone, interval(0.8), 1000 if data == "b" else 7, OURS if i % 2 else BASE
        )
        for i, (data, backbone) in enumerate(cells)
    ]
    made = of_cells.table(transferred(*rows))
    assert made.parts == [2, 3]
    assert [[c.text for c in line[:7]] for line in (made.cells()[0], made.cells()[3])] == [
        ["a", "v", "Base", "80.0 ± 1.0", "−12.3", "worse", "0"],
        ["b", "w", "Ours", "80.00 ± 1.00", "–", "reference", "12,345"],
    ]
    assert [column.title for column in made.columns if column.brief][-1] == "Training, s"
    assert len([column for column in made.columns if column.brief]) == 7
    assert made.records[0]["difference"] == -0.123
    assert made.records[0]["difference_low"] == pytest.approx(-0.143)
    assert made.records[0]["difference_high"] == pytest.approx(-0.103)
    assert (made.records[0]["p_holm"], made.records[0]["verdict"]) == (0.03, "worse")
    assert [made.records[1][k] for k in ("difference", "difference_low", "difference_high", "p_holm", "verdict")] == [None] * 5  # fmt: skip
    assert (made.records[3]["images"], made.records[3]["accuracy_sd_over_seeds"]) == (1000, 0.01)


def test_wins_are_of_the_reference() -> None:
    rows = [
        TransferRow("a", str(i), interval(0.5), 7, replace(BASE, versus=against(gain, 0.01, verdict)))
        for i, (gain, verdict) in enumerate(((-0.1, "worse"), (-0.3, "worse"), (0.1, "better"), (0.0, "tie"), (0.0, "undecided")))
    ]  # fmt: skip
    found = of_cells._versus("base", "Base", [*rows, TransferRow("a", "0", interval(0.5), 7, OURS)])
    assert (found.wins, found.losses, found.ties, found.undecided) == (2, 1, 1, 1)
    assert found.gain.mean == pytest.approx((0.1 + 0.3 - 0.1) / 5)
    assert np.isclose(found.gain.mean, 0.06)


def test_a_cell_s_interval_is_over_its_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    correct = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=bool)
    results = SimpleNamespace(rows=[SimpleNamespace(correct=correct)])
    monkeypatch.setattr(of_cells, "read_results", lambda folder: results if folder == tmp_path / "a/v" else None)  # fmt: skip
    monkeypatch.setattr(of_cells, "summarise_results", lambda _: SimpleNamespace(images=4, rows=[OURS]))  # fmt: skip
    (one,) = of_cells._cell(tmp_path, SimpleNamespace(name="a/v", data="a", backbone="v"))  # type: ignore[arg-type]
    assert (one.data, one.backbone, one.images, one.row) == ("a", "v", 4, OURS)
    assert one.accuracy == t_interval([0.75, 0.25])
