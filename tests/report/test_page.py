"""The page: self-contained, escaped, valid, whole with little to show."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest

from petiole.errors import RunError
from petiole.files import write_sealed
from petiole.report.page import write_page
from petiole.report.tables import legend, sentence, summarise

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADS = {"src", "href", "xlink:href", "data", "poster", "srcset", "action"}


class Page(HTMLParser):
    """Reads a page strictly: every element closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


def compared(build, at):
    build.notes = ["1 image was left out: <broken>.png."]
    accuracy = {"baseline": 0.3, "cosine": 0.75, "ours": 0.8}
    return build.comparison(
        "c", at(accuracy, 60), split_seeds=3, claims={"ours": 78.87}, notes=["No leak found."]
    )


@pytest.fixture
def folder(build, at):
    return compared(build, at)


@pytest.fixture(scope="module")
def written(make_build, at):
    """A comparison's folder and its page, which tests read and do not change."""
    place = compared(make_build("page"), at)
    return place, write_page(place).read_text()


def test_it_loads_nothing(written) -> None:
    _, text = written
    page = Page(text)
    for tag, attributes in page.elements:
        for name in LOADS & attributes.keys():
            assert attributes[name].startswith(("data:", "#")), (tag, attributes)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "http://" not in text
    assert "https://" not in text


def test_its_policy_allows_its_own_script_and_no_other(written) -> None:
    _, text = written
    script = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        in text
    )
    assert len((files("petiole.report") / "page.js").read_bytes()) <= 2048


def test_it_is_valid_and_readable_without_eyes(written) -> None:
    page = Page(written[1])
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for attributes in page.all("section"):
        assert attributes["aria-labelledby"] in ids
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(a.get("alt") for a in page.all("img"))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    assert ("html", {"lang": "en"}) in page.elements


def test_it_says_what_the_summary_says(written) -> None:
    folder, text = written
    page = Page(text)
    text = " ".join("".join(page.text).split())  # also turns no-break spaces into spaces
    summary = summarise(folder)
    assert sentence(summary) in text
    assert " ".join(legend(summary).split()) in text
    for row in summary.rows:
        assert f"{100 * row.accuracy.mean:.1f} ± {100 * row.over_splits.sd:.1f}" in text
    for words in (
        "3 methods were trained on the frozen backbone timm/vit_small_patch14_dinov2.lvd142m",
        "300 source, 330 to train on (source and shots), 60 target test",
        "10 target images a class",
        "once, by each run, at its end",
        "last step",
        "Trained, % of full fine-tuning (backbone + head)",
        "Kept for prediction, % of backbone + kept",
        "Training step, one image",
        "1 image was left out: <broken>.png.",
        "No leak found.",
        "a" * 64,
    ):
        assert words in text, words


def test_test_sets_that_were_scored_twice_are_told(folder, build) -> None:
    run = folder / "runs/cosine/split-0-seed-0"
    build.run(
        run, np.ones(60, dtype=bool), method="cosine"
    )  # a second line in test_evaluations.jsonl
    assert "up to 2 times by one run" in write_page(folder).read_text()


def test_equal_records_give_equal_bytes(folder) -> None:
    first = write_page(folder).read_bytes()
    assert write_page(folder).read_bytes() == first
    assert not [p for p in folder.iterdir() if p.name.startswith(".tmp")]


def test_names_are_never_markup(build, at) -> None:
    evil = "<script>alert(1)</script>"
    build.classes = [evil, "ünïcødé 猫", '"quoted" & $5$\u202e']
    build.notes = [evil]
    accuracy = {"baseline": 0.3, "cosine": 0.75, "ours": 0.8}
    labels = {"ours": f"</td>{evil}"}
    folder = build.comparison("c", at(accuracy, 60), labels=labels, title=evil, notes=[evil])
    text = write_page(folder).read_text()
    page = Page(text)
    assert evil not in text
    assert len(page.all("script")) == 1
    seen = "".join(page.text)
    assert evil in seen
    assert "ünïcødé 猫" in seen
    assert '"quoted" & $5$' in seen
    assert "\u202e" not in text, "it would turn the rest of the line round"
    assert "\\u202e" in seen
    run = write_page(folder / "runs/ours/split-0-seed-0").read_text()
    assert evil not in run
    assert len(Page(run).all("script")) == 1


def test_without_vectors_the_diagnosis_is_left_out(build, at) -> None:
    accuracy = {"baseline": 0.3, "cosine": 0.75, "ours": 0.8}
    folder = build.comparison("c", at(accuracy, 60), vectors=False)
    text = write_page(folder).read_text()
    Page(text)
    assert "Domains before and after" not in text
    assert "Predictions that changed" in text


def test_a_row_alone(build, at) -> None:
    folder = build.comparison("c", at({"ours": 0.8}, 60), ["ours"], split_seeds=1, baseline="ours")
    page = Page(write_page(folder).read_text())
    text = "".join(page.text)
    assert "One method was trained" in text
    assert "Predictions that changed" not in text


def test_thumbnails_and_those_that_are_gone(folder, build) -> None:
    page = Page(write_page(folder).read_text())
    shown = len(page.all("img"))
    assert shown > 0
    shutil.rmtree(build.root / "images")
    text = write_page(folder).read_text()
    assert len(Page(text).all("img")) == 0
    assert text.count("file not found") == shown


def test_a_missing_run_leaves_no_page(folder) -> None:
    (folder / "runs/ours/split-2-seed-0/record.json").unlink()
    with pytest.raises(RunError, match="runs/ours/split-2-seed-0"):
        write_page(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("source", [True, False])
def test_a_single_run(build, source: bool) -> None:
    correct = np.arange(60) % 4 > 0
    run = build.run(build.root / "run", correct, vectors=True, source=source, training_only=131_456)
    page = Page(write_page(run).read_text())
    text = " ".join("".join(page.text).split())
    assert "cls-residual-lora reaches 75.0 % on 60 test images" in text
    assert "one run, so no interval between splits can be given" in text
    assert "15 of 60 test images were labelled wrongly" in text
    assert "123,777" in text
    assert "Results" not in text
    assert ("There is no source domain to compare with." in text) == (not source)


@pytest.mark.parametrize(
    ("rate", "share", "said"),
    [(None, None, ""), (4.2e10, None, ", 42.0 GFLOP/s"), (4.2e10, 0.31, ", 42.0 GFLOP/s, 31 % of a matrix product (MFU)")],
)  # fmt: skip
def test_what_a_training_computed_a_second(build, rate, share, said) -> None:
    file = build.run(build.root / "run", np.ones(60, dtype=bool)) / "record.json"
    record = json.loads(file.read_text())
    record["costs"] |= {"flops_per_second": rate, "utilisation": share}
    write_sealed(file, record)
    assert f"<dd>of training{said}</dd>" in write_page(file.parent).read_text().replace(
        "\u00a0", " "
    )


def test_a_perfect_run_has_no_mistakes_to_show(build) -> None:
    run = build.run(build.root / "run", np.ones(60, dtype=bool), shots=None)
    text = " ".join("".join(Page(write_page(run).read_text()).text).split())
    assert "Mistakes" not in text
    assert "all target images" in text


def test_an_unfinished_run_says_so(build) -> None:
    run = build.run(build.root / "run", np.ones(60, dtype=bool))
    (run / "record.json").unlink()
    with pytest.raises(RunError, match=r"holds no complete run .*--resume"):
        write_page(run)
