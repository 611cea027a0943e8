"""What people do in the explorer, in a real browser. Values are asserted, not pixels."""

import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.app.conftest import served

ANATOMY = '[id=\'{"name":"anatomy","part":"figure"}\'] .js-plotly-plot'


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).or_(page.get_by_role("textbox", name=label)).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def colours(page: Page) -> list[float]:
    """What the bars of the overview's figure are coloured by."""
    page.wait_for_function(f"""() => (document.querySelector(`{ANATOMY}`)?.data ?? []).length > 1""")
    found = page.evaluate(f"""() => Array.from(document.querySelector(`{ANATOMY}`).data[1].marker.color)""")
    return [float(value) for value in found]


def test_the_overview_shows_the_model_and_is_coloured_by_another_score(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.get_by_text("1,738,368")).to_be_visible()
    expect(page.get_by_role("heading", name="The model, block by block")).to_be_visible()
    before = colours(page)
    assert len(before) == 6
    choose(page, "Colour by score", "wanda")
    expect(page).to_have_url(f"{address}?score=wanda")
    page.wait_for_function(
        f"(old) => document.querySelector(`{ANATOMY}`).data[1].marker.color[0] !== old", arg=before[0]
    )
    assert colours(page) != before


def test_a_selection_is_in_the_link_and_a_copied_link_shows_the_same(
    page: Page, browser: Browser, address: str
) -> None:
    page.goto(address)
    page.get_by_label("Selected unit").fill("neuron.3.17")
    expect(page.get_by_text("neuron.3.17: one unit")).to_be_visible()
    choose(page, "Mask", "wanda-0.2")
    page.get_by_text("Dark", exact=True).click()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("Link copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == f"{address}?mask=wanda-0.2&unit=neuron.3.17&theme=dark"
    other = browser.new_context().new_page()
    other.goto(link)
    expect(other.get_by_label("Selected unit")).to_have_value("neuron.3.17")
    expect(other.get_by_text("neuron.3.17: one unit")).to_be_visible()
    expect(other.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    other.goto(address)  # another person, with a selection of their own
    expect(other.get_by_text("Nothing is selected")).to_be_visible()
    expect(page.get_by_label("Selected unit")).to_have_value("neuron.3.17")
    other.context.close()


def test_a_click_on_a_block_selects_it(page: Page, address: str) -> None:
    page.goto(address)
    colours(page)
    box = page.locator(f"{ANATOMY} .barlayer .trace").nth(1).locator(".point path").nth(4).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    expect(page.get_by_label("Selected unit")).to_have_value("neuron.4")
    expect(page.get_by_text("neuron.4: 512 units")).to_be_visible()


def test_a_broken_and_a_missing_run_say_what_is_wrong(page: Page, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "broken")
    (tmp_path / "broken" / "manifest.json").write_text("{")
    with served(tmp_path / "broken") as address:
        page.goto(address)
        expect(page.get_by_text("This run can't be shown")).to_be_visible()
        expect(page.get_by_text("manifest.json cannot be read as JSON")).to_be_visible()
    with served(tmp_path / "missing") as address:
        page.goto(address)
        expect(page.get_by_text("there is no folder")).to_be_visible()


def test_a_run_with_a_graph_alone_says_what_is_missing(page: Page, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "half", ignore=shutil.ignore_patterns("scores", "masks"))
    with served(tmp_path / "half") as address:
        page.goto(address)
        expect(page.get_by_text("No scores yet")).to_be_visible()
        expect(page.get_by_text("This run has no masks yet")).to_be_visible()
        expect(page.get_by_role("heading", name="The model, block by block")).to_be_visible()


def test_a_link_that_cannot_be_shown_says_why(page: Page, address: str) -> None:
    page.goto(f"{address}?view=nothing")
    expect(page.get_by_text("it is one of overview")).to_be_visible()
