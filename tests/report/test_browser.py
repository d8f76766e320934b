"""The page in a real browser: nothing logged, tables that sort, no sideways scrolling."""

from pathlib import Path

import pytest

from builders.browser import DESKTOP, NEEDED, PHONE, appear, browser
from petiole.report.page import write_page

__all__ = ["browser"]
pytestmark = NEEDED


@pytest.fixture(scope="module")
def pages(make_build, at):
    build = make_build("browser")
    build.classes = ["a rather long class name", "ünïcødé", "cross"]
    accuracy = {"baseline": 0.3, "cosine": 0.75, "ours": 0.8}
    labels = {"ours": "CLS-Residual LoRA"}
    folder = build.comparison("c", at(accuracy, 60), split_seeds=3, labels=labels)
    return write_page(folder), write_page(folder / "runs/ours/split-0-seed-0")


def show(browser, page: Path, size=DESKTOP, scheme: str = "light") -> None:
    appear(browser, size, scheme)
    browser.get(page.as_uri())


def column(browser, index: int) -> list[str]:
    script = """
        const rows = document.querySelector("#results ~ .scroll tbody").rows;
        return [...rows].map(row => row.cells[arguments[0]].firstChild.data);"""
    return browser.execute_script(script, index)


def test_it_asks_for_nothing_and_complains_of_nothing(browser, pages) -> None:
    for page in pages:
        show(browser, page)
        assert browser.get_log("browser") == []
        protocol = browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name)"
        )
        assert [name for name in protocol if not name.startswith("data:")] == []


def test_a_click_on_a_title_sorts(browser, pages) -> None:
    show(browser, pages[0])
    start = column(browser, 0)
    titles = browser.find_elements("css selector", "#results ~ .scroll thead button")
    by_name = {title.text.replace("\xa0", " "): i for i, title in enumerate(titles)}
    accuracy = by_name["Accuracy, %"]
    values = lambda: [float(text.split()[0]) for text in column(browser, accuracy)]  # noqa: E731
    titles[accuracy].click()
    assert values() == sorted(values(), reverse=True)
    head = titles[accuracy].find_element("xpath", "..")
    assert head.get_attribute("aria-sort") == "descending"
    titles[accuracy].click()
    assert values() == sorted(values())
    titles[0].click()
    assert column(browser, 0) == sorted(start, key=str.casefold)
    assert head.get_attribute("aria-sort") is None
    titles[by_name["Difference, points"]].click()
    assert column(browser, 0)[-1] == "CLS-Residual LoRA"  # nothing to compare: last
    assert sorted(column(browser, 0)) == sorted(start)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_never_scrolls_sideways(browser, pages, size, tmp_path) -> None:
    for i, page in enumerate(pages):
        show(browser, page, size)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= size[0]
        assert browser.save_screenshot(str(tmp_path / f"{i}.png"))


def test_pictures_follow_the_theme(browser, pages) -> None:
    ink = "return getComputedStyle(document.querySelector('figure svg text')).fill"
    colours = set()
    for scheme in ("light", "dark"):
        show(browser, pages[0], scheme=scheme)
        colours.add(browser.execute_script(ink))
        paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        colours.add(paper)
    assert len(colours) == 4
