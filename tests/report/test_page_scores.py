"""The page of runs and comparisons that are scored by task or by language model."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from petiole.files import write_sealed
from petiole.protocols.comparison import Comparison
from petiole.protocols.multitask import MAJORITY, Multitask
from petiole.protocols.protocol import ComparisonRow
from petiole.report import folder as reports
from petiole.report.notebook import to_html
from petiole.report.page import write_page
from petiole.report.table import plain

Scored = Callable[..., Any]
TASKS = {"vqa": {"vqa_accuracy": 41.5, "soft": 50.0}, "caption": {"cider": 110.25, "bleu4": 30.0}}
MODELS = {"llama": {"exact_match": 62.5, "f1": 70.0}, "qwen": {"exact_match": 50.0, "f1": 55.5}}
DIAGNOSIS = {
    "start": {"flip_rate": 0.0, "perplexity": 7.5},
    "end": {"flip_rate": 0.25, "perplexity": 8.5},
}


def text_of(page: Path) -> str:
    """What a reader sees, tags and style left out."""
    text = re.sub(r"<(style|script).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_a_run_of_texts(tmp_path: Path, scored: Scored) -> None:
    scored(tmp_path / "run", "text", TASKS, notes=["vqa: 2 samples were left out."])
    text = text_of(write_page(tmp_path / "run"))
    for words in (
        "vl-adapter reaches 41.5 % on vqa (vqa_accuracy) and 110.2 % on caption (cider).",
        "Scores Task",
        "caption bleu4 30.0",
        "Training loss",
        "was trained on the frozen petiole/tiny with 80 samples (seed 0), and scored on 24 test samples",
        "Prefixes yes",
        "Tasks vqa, caption",
        ["418", "418", "418", "10,000"][0],
        "vqa: 2 samples were left out.",
        "b" * 64,
        "once, by each run, at its end",
    ):
        assert words in text, words
    for words in (
        "Class by class",
        "Predictions that changed",
        "Mistakes",
        "Domains before",
        "Shots",
    ):
        assert words not in text, words


def test_a_run_over_a_codebook(tmp_path: Path, scored: Scored) -> None:
    options = {"language_models": ["f" * 8], "pruning": {"keep": 0.5}, "precision": "fp32"}
    scored(
        tmp_path / "run", "codebook", MODELS, method="craft", diagnosis=DIAGNOSIS, options=options
    )
    text = text_of(write_page(tmp_path / "run"))
    for words in (
        "craft reaches 62.5 % on llama (exact_match) and 50.0 % on qwen (exact_match).",
        "Language model exact_match f1 llama 62.5 70.0 qwen 50.0 55.5",
        "Measured of the model",
        "Measure Start End flip rate 0 0.25 perplexity 7.5 8.5",
        "Pruning keep=0.5",
        "Training step, one question",
        "with 40 samples (seed 0), and scored on 12 test samples",
    ):
        assert words in text, words


def test_names_are_never_markup(tmp_path: Path, scored: Scored) -> None:
    evil = "<img src=x onerror=alert(1)>"
    scored(tmp_path / "run", "codebook", {evil: {evil: 1.0}}, notes=[evil], options={evil: evil})
    page = write_page(tmp_path / "run").read_text()
    assert evil not in page
    assert "<img" not in page
    assert "&lt;img" in page


def multitask(root: Path, scored: Scored, seeds: int = 3) -> Path:
    rows = [ComparisonRow(name=n, label=n.upper(), method=n) for n in ("vl-adapter", "vl-lora")]
    protocol = Multitask(model="tiny", tasks=["vqa", "caption"], rows=rows, seeds=seeds)
    protocol.write(root)
    write_sealed(root / MAJORITY, {"vqa": {"vqa_accuracy": 25.0}, "caption": {"cider": 1.0}})
    for row in rows:
        for seed, place in enumerate(protocol.runs(root, row)):
            worse = (row.name == "vl-lora") * (5 + 0.1 * seed * (-1) ** seed)
            scores = {"vqa": {"vqa_accuracy": 41 - worse}, "caption": {"cider": 110 + seed - worse}}
            scored(place, "text", scores, method=row.name, seed=seed)
    return root


def test_many_tasks_in_one_model(tmp_path: Path, scored: Scored) -> None:
    text = text_of(write_page(multitask(tmp_path, scored)))
    summary = reports.summarise(tmp_path)
    assert reports.sentence(summary) in text
    for words in (
        "VL-ADAPTER reaches",
        "(Avg of vqa, caption; mean ± sd of 3 seeds). It is better than every other row.",
        "the commonest answer",
        "2 methods were trained on the frozen petiole/tiny, with 3 seeds each",
        "Training loss, 3 runs.",
        "small dots are single seeds",
        *summary.notes,
    ):
        assert words in text, words
    assert text.count("once, by each run, at its end") == 1


def test_one_seed_has_a_page_too(tmp_path: Path, scored: Scored) -> None:
    page = write_page(multitask(tmp_path, scored, seeds=1))
    assert not re.search(r"\b(nan|inf)\b", text_of(page).lower())
    assert not re.search(r"[\" ](nan|-?inf)[\" ]", page.read_text()), (
        "no figure has a bound that is none"
    )
    assert "(Avg of vqa, caption; one seed)" in text_of(page)


def test_a_comparison_over_a_codebook(tmp_path: Path, scored: Scored) -> None:
    rows = [ComparisonRow(name=n, label=n, method=n) for n in ("craft", "vision-ft")]
    comparison = Comparison(
        kind="codebook",
        title="Sketches",
        rows=rows,
        seeds=2,
        baseline="craft",
        headline="craft",
        reference="craft",
    )
    comparison.write(tmp_path)
    for row in rows:
        for seed, place in enumerate(comparison.runs(tmp_path, row)):
            better = 10 * (row.name == "craft") + seed
            scored(
                place,
                "codebook",
                {"llama": {"exact_match": 50.0 + better}},
                method=row.name,
                seed=seed,
            )
    text = text_of(write_page(tmp_path))
    assert "Comparison Sketches craft reaches 60.5 ± 0.7 % (mean ± sd of 2 seeds)." in text
    assert "llama, exact_match Difference, points Verdict" in text, (
        "one score has no average of its own"
    )
    table = reports.table(reports.summarise(tmp_path))
    assert [cell.text for cell in table.cells()[1]][-3:-1] == ["−10.0", "undecided"]
    assert "Against vision-ft, 2 seeds cannot decide." in text


def test_a_notebook_shows_a_table_and_no_markup_of_others() -> None:
    evil = "<script>alert(1)</script>"
    table = plain(["Method", evil], [["a & b", evil]], title=evil, notes=[evil], stressed=0)
    html = to_html(table)
    assert evil not in html
    assert html.count("&lt;script&gt;") == 4
    assert "a &amp; b" in html
    assert html.count("<tr") == html.count("</tr>") == 2
    assert 'style="font-weight: bold"' in html


@pytest.mark.parametrize("empty", ["", "no"])
def test_an_empty_folder_says_what_is_missing(tmp_path: Path, empty: str) -> None:
    with pytest.raises(Exception, match="holds no complete run"):
        write_page(tmp_path / empty)
