"""The page in a real browser: from a folder without labels to a served adapter that answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import petiole
from builders.browser import DESKTOP, NEEDED, PHONE, TABLET, appear, browser
from builders.images import CLASSES, write_images
from builders.serving import Running, picture, serving, write_adapter
from petiole.files import read_lines

httpx = pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
__all__ = ["browser"]
pytestmark = NEEDED
AXE = os.environ.get("AXE_CORE", "")
"""axe.min.js of the npm package axe-core, if it is at hand."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ without labels, an adapter, runs/ with a damaged run, and an image to try."""
    root = tmp_path_factory.mktemp("page")
    write_images(root / "images", 6, 0)
    write_adapter(root / "trees", petiole.load("petiole/tiny-vit"), list(CLASSES), rank=2)
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
        with serving(place / "log", place / "trees", "--backbone", "petiole/tiny-vit", *page) as it:
            yield it


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def every(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def until(browser: Any, true: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 40, poll_frequency=0.05).until(lambda _: true())


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
    assert {box.get_attribute("value") for box in boxes} == {"trees", "taught"}
    one(browser, "#file").send_keys(str(next((place / "images" / CLASSES[1]).iterdir())))
    cards = until(browser, lambda: every(browser, "#answers article"))
    by_name = {c.find_element("css selector", "h2").text: c for c in cards}
    assert by_name["taught"].find_element("css selector", ".label").text == CLASSES[1]

    open_tab(browser, server, "runs")
    until(browser, lambda: "torn" in one(browser, "#run-rows").text)
    assert "damaged" in one(browser, "#run-rows").text
    errors = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert errors == []


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
        if AXE:
            browser.execute_script(Path(AXE).read_text())
            found = browser.execute_async_script(
                "const done = arguments[0]; axe.run().then(r => done(JSON.stringify(r.violations)))"
            )
            assert [(v["id"], v["nodes"][0]["html"]) for v in json.loads(found)] == []
