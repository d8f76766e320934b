"""The page in a real browser: from a folder without labels to a served adapter that answers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import petiole
from builders.browser import DESKTOP, NEEDED, PHONE, TABLET, appear, browser
from builders.images import CLASSES, write_images
from builders.serving import Running, picture, serving, write_adapter
from petiole.data.splits import read_split
from petiole.files import append_line, read_lines, read_sealed, sealed, write_sealed

httpx = pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
__all__ = ["browser"]
pytestmark = NEEDED
AXE = os.environ.get("AXE_CORE", "")
"""axe.min.js of the npm package axe-core, if it is at hand."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ without labels, two adapters, runs/ with a finished, a live and a damaged run, and an image to try."""
    root = tmp_path_factory.mktemp("page")
    write_images(root / "images", 6, 0)
    write_adapter(root / "trees", petiole.load("petiole/tiny-vit"), list(CLASSES), rank=2)
    write_adapter(root / "other", petiole.load("petiole/tiny-vit"), list(CLASSES), seed=1, rank=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PETIOLE_CACHE", str(root / "cache"))
        petiole.fit(
            root / "images",
            method="linear-probe",
            backbone="petiole/tiny-vit",
            settings={"steps": 6, "views": 0},
            shots=2,
            out=root / "runs" / "done",
            quiet=True,
        )
    live = root / "runs" / "live"
    live.mkdir()
    request = read_sealed(root / "runs" / "done" / "request.json")
    write_sealed(live / "request.json", {**request, "seed": 7})
    for step, loss in enumerate((2.0, 1.5, 1.2)):
        append_line(live / "metrics.jsonl", sealed({"step": step, "loss": loss, "lr": 0.1}))
    shutil.copytree(root / "runs" / "done", root / "runs" / "study" / "runs" / "one")
    (root / "runs" / "study" / "report.html").write_text("a comparison")
    (root / "runs" / "torn").mkdir(parents=True)
    (root / "runs" / "torn" / "record.json").write_text("{")
    (root / "image.png").write_bytes(picture())
    return root


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Running]:
    page = ("--teach", place / "images", "--teach-out", place / "labels", "--runs", place / "runs")
    environment = {"PETIOLE_CACHE": str(place / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        adapters = (place / "trees", place / "other", place / "runs" / "done", "--show-training")
        with serving(place / "log", *adapters, "--backbone", "petiole/tiny-vit", *page) as it:
            yield it


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def every(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def until(browser: Any, true: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 90, poll_frequency=0.05).until(lambda _: true())


def open_tab(browser: Any, server: Running, name: str) -> None:
    browser.get("about:blank")
    browser.get(f"{server.url}/#{name}")
    until(browser, lambda: one(browser, f"#{name}").is_displayed())


def label(browser: Any, folder: str, name: str) -> None:
    """Choose all shown images of a class by looking at their colour, and name them."""
    for tile in every(browser, "#grid button"):
        row = int(tile.get_attribute("data-row"))
        if LABELS[row] == folder:
            tile.click()
    one(browser, "#class-name").send_keys(name + "\n")
    until(browser, lambda: name in one(browser, "#classes").text)


LABELS: dict[int, str] = {}
THERE = {"try": "#adapters input", "teach": "#grid button", "runs": "#run-rows tr"}
"""What a tab shows when it is whole."""


@pytest.fixture(scope="module")
def known(place: Path) -> dict[int, str]:
    """True class by row: what a person sees in the pictures."""
    from petiole.data.unlabelled import unlabelled

    data = unlabelled(place / "images", "images")
    LABELS.update({row: path.parent.name for row, path in enumerate(data.paths)})
    return LABELS


def test_from_a_folder_without_labels_to_a_served_adapter(
    browser: Any, server: Running, place: Path, known: dict[int, str]
) -> None:
    appear(browser, DESKTOP)
    open_tab(browser, server, "teach")
    until(browser, lambda: every(browser, "#grid button"))
    for name in CLASSES[:2]:
        label(browser, name, name)
    until(browser, lambda: "%" in one(browser, "#accuracy").text)
    label(browser, CLASSES[2], CLASSES[2])
    before = one(browser, "#labelled").text
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys("a").perform()  # accept what is guessed of the shown images
    until(browser, lambda: one(browser, "#labelled").text != before)
    after = one(browser, "#labelled").text
    ActionChains(browser).send_keys("u").perform()
    until(browser, lambda: one(browser, "#labelled").text != after)
    with httpx.Client(base_url=server.url, timeout=20) as http:
        http.post("/v1/teach/label", json={"rows": [0], "label": known[0]})  # as another tab would
        count = sum(one >= 0 for one in http.get("/v1/teach/state").json()["labels"])
        until(browser, lambda: one(browser, "#labelled").text == str(count))
    one(browser, "#publish button").click()
    until(browser, lambda: "Served as taught" in one(browser, "#message").text)

    open_tab(browser, server, "try")
    boxes = until(browser, lambda: every(browser, "#adapters input"))
    assert {box.get_attribute("value") for box in boxes} == {"trees", "other", "done", "taught"}
    for box in boxes:
        if box.is_selected() != (box.get_attribute("value") == "taught"):
            box.click()
    one(browser, "#file").send_keys(str(next((place / "images" / CLASSES[1]).iterdir())))
    cards = until(browser, lambda: every(browser, "#answers article"))
    by_name = {c.find_element("css selector", "h2").text: c for c in cards}
    assert by_name["taught"].find_element("css selector", ".label").text == CLASSES[1]

    open_tab(browser, server, "runs")
    until(browser, lambda: "torn" in one(browser, "#run-rows").text)
    assert "damaged" in one(browser, "#run-rows").text
    errors = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert errors == []


def test_several_images_show_where_adapters_differ_and_one_where_an_adapter_looks(
    browser: Any, server: Running, place: Path
) -> None:
    appear(browser, PHONE, "dark")
    open_tab(browser, server, "try")
    until(browser, lambda: every(browser, "#adapters input"))
    files = sorted((place / "images").rglob("*.png"))[:6]
    with petiole.Client(server.url) as client:
        names = [one["name"] for one in client.adapters()][:2]
        said = [
            [row["label"] for row in client.predict(list(files), adapter=name)["predictions"]]
            for name in names
        ]
    for box in every(browser, "#adapters input"):
        if box.is_selected() != (box.get_attribute("value") in names):
            box.click()
    one(browser, "#file").send_keys("\n".join(map(str, files)))
    differ = sum(a != b for a, b in zip(*said, strict=True))
    text = f"The adapters differ on {differ} of 6 images."
    until(browser, lambda: one(browser, "#flips-note").text == text)
    rows = every(browser, "#flips-rows tr")
    shown = [[cell.text for cell in row.find_elements("css selector", "td")] for row in rows]
    assert sorted(map(tuple, shown)) == sorted(zip(*said, strict=True))
    assert [a != b for a, b in shown] == sorted((a != b for a, b in shown), reverse=True)
    button = until(browser, lambda: one(browser, "#answers article button"))
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys("\n")
    canvas = until(browser, lambda: one(browser, "#answers canvas"))
    label = one(browser, "#answers .label").text
    assert canvas.get_attribute("aria-label").startswith(f"Patches that speak for {label}: most in")
    assert "of 5 by 5" in canvas.get_attribute("aria-label")
    shots = Path(os.environ.get("PAGE_SHOTS") or place)
    assert browser.save_screenshot(str(shots / "look.png"))
    accessible(browser)


def test_runs_stand_side_by_side_while_one_goes_on(
    browser: Any, server: Running, place: Path
) -> None:
    appear(browser, DESKTOP)
    open_tab(browser, server, "runs")
    log = place / "runs" / "live" / "metrics.jsonl"
    append_line(log, sealed({"step": 3, "loss": 1.1, "lr": 0.1}))
    until(browser, lambda: "step 4 of 6" in one(browser, "#run-rows").text)
    assert "study/runs/one" not in one(browser, "#run-rows").text
    one(browser, "#run-rows button[data-at=study]").click()
    until(browser, lambda: "study/runs/one" in one(browser, "#run-rows").text)
    page = one(browser, "#run-rows a[href='/runs/study/report.html']").get_attribute("href")
    assert httpx.get(page).text == "a comparison"
    for name in ("done", "live"):
        one(browser, f"#run-rows input[value={name}]").click()
        until(browser, lambda name=name: name in one(browser, "#run-heads").text)
    until(browser, lambda: len(every(browser, "#run-curves polyline")) == 2)
    read = "return [...document.querySelectorAll('#run-compared tr')].map(r => [...r.cells].map(c => c.innerText))"
    rows = {name: values for name, *values in browser.execute_script(read)}
    assert rows["seed"] == ["0", "7"]
    assert "method" not in rows, "what is the same is left out"
    assert rows["accuracy"][1] == "–"
    assert browser.save_screenshot(str(Path(os.environ.get("PAGE_SHOTS") or place) / "side.png"))
    append_line(log, sealed({"step": 4, "loss": 0.9, "lr": 0.1}))
    until(browser, lambda: "live: loss 0.900" in one(browser, "#run-curves").text)
    until(browser, lambda: "step 5 of 6" in one(browser, "#run-rows").text)
    accessible(browser)
    with httpx.Client(base_url=server.url, timeout=20) as http:
        assert http.get("/v1/runs", params={"name": ["../images"]}).status_code == 422
        assert http.get("/v1/runs", params={"name": ["done"] * 9}).status_code == 422
        for name in ("\0", "x" * 5000):
            assert http.get("/v1/runs", params={"name": [name]}).status_code == 422
            assert http.get(f"/runs/{quote(name)}/report.html").status_code == 404


def test_nearest_training_images_are_shown_where_they_may_be(server: Running, place: Path) -> None:
    done = place / "runs" / "done"
    train = read_split(done / "split.csv").parts["train"]
    sample = train.samples[0]
    with httpx.Client(base_url=server.url, timeout=60) as http:
        image = {"image": sample.path.read_bytes()}
        answer = http.post("/v1/nearest", data={"adapter": "done"}, files=image)
        assert answer.status_code == 200, answer.text
        told = answer.json()["images"]
        assert told[0]["label"] == train.classes[sample.label]
        assert told[0]["alike"] == pytest.approx(1, abs=1e-4)
        assert [one["alike"] for one in told] == sorted((o["alike"] for o in told), reverse=True)
        bare = http.post("/v1/nearest", data={"adapter": "trees"}, files=image)
        assert bare.status_code == 422
        assert "no run folder" in bare.json()["error"]["message"]


def accessible(browser: Any) -> None:
    """axe-core finds nothing, where it is at hand."""
    if not AXE:
        return
    browser.execute_script(Path(AXE).read_text())
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run().then(r => done(JSON.stringify(r.violations)))"
    )
    assert [(v["id"], v["nodes"][0]["html"]) for v in json.loads(found)] == []


def test_what_was_labelled_is_exported_and_kept(server: Running, place: Path) -> None:
    with httpx.Client(base_url=server.url, timeout=20) as http:
        state = http.get("/v1/teach/state").json()
        named = sum(label >= 0 for label in state["labels"])
        rows = http.get("/v1/teach/export/csv").text.splitlines()[1:]
        assert len(rows) == named
        path, _, given = rows[0].rpartition(",")
        assert Path(path).parent.name == given
        tasks = http.get("/v1/teach/export/label-studio").json()
        assert len(tasks) == named
        fiftyone = http.get("/v1/teach/export/fiftyone").json()
        assert set(fiftyone["classes"]) == set(state["classes"])
        assert set(map(Path, fiftyone["labels"])) == {Path(t["data"]["image"]) for t in tasks}
        refused = http.post("/v1/teach/label", json={"rows": [999], "label": "x"})
        assert refused.status_code == 422
        assert http.get("/v1/teach/thumbnails/999").status_code == 422
        assert http.get("/v1/teach/thumbnails/0").headers["content-type"] == "image/jpeg"
        assert http.get("/runs/../log/report.html").status_code == 404
        assert http.get("/runs/%2e%2e/report.html").status_code == 404
    lines, torn = read_lines(place / "labels" / "labels.jsonl")
    assert torn == []
    assert [line["undo"] for line in lines].count(True) == 1


@pytest.mark.parametrize("tab", ["try", "teach", "runs"])
def test_it_fits_every_width_and_can_be_read_by_all(
    browser: Any, server: Running, tab: str, tmp_path: Path
) -> None:
    for scheme, size in (("light", DESKTOP), ("light", TABLET), ("dark", PHONE)):
        appear(browser, size, scheme)
        open_tab(browser, server, tab)
        until(browser, lambda: every(browser, THERE[tab]))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
        shots = Path(os.environ.get("PAGE_SHOTS") or tmp_path)
        assert browser.save_screenshot(str(shots / f"{tab}-{size[0]}.png"))
        accessible(browser)
