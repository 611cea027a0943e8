"""What people do in the explorer, in a real browser. Values are asserted, not pixels."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from graphprune.core.mask import Mask
from graphprune.models.model import Model
from tests.app.conftest import served

ANATOMY = '[id=\'{"name":"anatomy","part":"figure"}\'] .js-plotly-plot'


def opened(page: Page, address: str) -> None:
    """Goes to a page and waits until all of its figures are drawn: what is done earlier, the page may take back."""
    page.goto(address)
    page.wait_for_function("""() => {
        const titles = Array.from(document.querySelectorAll("section h2"));
        const figures = Array.from(document.querySelectorAll("section .js-plotly-plot"));
        const isDrawn = (figure) => figure.layout?.template;  // what stands there before has none
        return titles.length > 0 && titles.every((title) => title.textContent)
            && figures.length === titles.length && figures.every(isDrawn);
    }""")


@contextmanager
def visited(page: Page, folder: Path) -> Iterator[str]:
    """A server of its own, which the page leaves before it ends."""
    with served(folder) as address:
        yield address
        page.goto("about:blank")


def draw_around(page: Page, name: str) -> None:
    """Drags a box over the right two thirds of a figure, and waits until the figure has taken it."""
    panel = page.locator(f'[id=\'{{"name":"{name}","part":"figure"}}\']')
    figure = panel.locator(".nsewdrag").first
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=8)
    page.mouse.up()
    taken = "(figure) => figure.layout.selections?.length > 0"
    page.wait_for_function(taken, arg=panel.locator(".js-plotly-plot").element_handle())


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).or_(page.get_by_role("textbox", name=label)).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def colours(page: Page) -> list[float]:
    """What the bars of the overview's figure are coloured by."""
    page.wait_for_function(f"""() => (document.querySelector(`{ANATOMY}`)?.data ?? []).length > 1""")
    found = page.evaluate(f"""() => Array.from(document.querySelector(`{ANATOMY}`).data[1].marker.color)""")
    return [float(value) for value in found]


def test_the_overview_shows_the_model_and_is_coloured_by_another_score(page: Page, address: str) -> None:
    opened(page, address)
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
    opened(page, address)
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


def test_two_controls_that_are_moved_at_once_are_both_in_the_address(page: Page, address: str) -> None:
    opened(page, f"{address}?view=prune&score=magnitude")
    page.evaluate("""() => {  // faster than any server answers
        for (const label of ["neurons", "Dark"]) {
            Array.from(document.querySelectorAll("label")).find((each) => each.textContent === label).click();
        }
    }""")
    expect(page).to_have_url(f"{address}?view=prune&score=magnitude&units=neuron&theme=dark")


def test_a_click_on_a_block_selects_it(page: Page, address: str) -> None:
    opened(page, address)
    box = page.locator(f"{ANATOMY} .barlayer .trace").nth(1).locator(".point path").nth(4).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    expect(page.get_by_label("Selected unit")).to_have_value("neuron.4")
    expect(page.get_by_text("neuron.4: 512 units")).to_be_visible()


def test_the_units_judged_most_differently_are_sorted_filtered_and_selected(page: Page, address: str) -> None:
    opened(page, f"{address}?view=compare&score=wanda&against=magnitude&within=kind")
    grid = page.locator(".ag-root-wrapper")
    grid.scroll_into_view_if_needed()
    expect(grid.get_by_text("of 3,120")).to_be_visible()
    first = page.locator('.ag-row[row-index="0"] [col-id="unit"]')
    expect(first).to_contain_text(".")
    furthest = first.inner_text()
    page.get_by_role("columnheader", name="difference").get_by_text("difference").click()
    expect(first).not_to_have_text(furthest)
    page.locator('.ag-header-cell[col-id="kind"] .ag-header-cell-filter-button').click()
    page.get_by_role("textbox", name="Filter Value").first.fill("head")
    expect(grid.get_by_text("of 48")).to_be_visible()
    lowest = first.inner_text()
    assert lowest.startswith("head.")
    with page.expect_download() as download:
        page.get_by_role("button", name="download differences as CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 49
    assert lines[1].startswith(lowest)
    page.keyboard.press("Escape")
    first.click()
    expect(page.get_by_label("Selected unit")).to_have_value(lowest)
    expect(grid.get_by_text("of 48")).to_be_visible()
    page.get_by_role("tab", name="Graph").click()
    expect(page.get_by_role("heading", name=f"What {lowest} takes from and gives to")).to_be_visible()


def test_a_neuron_is_searched_and_its_neighbours_and_strongest_paths_are_shown(page: Page, address: str) -> None:
    opened(page, f"{address}?view=graph&score=wanda")
    query = page.get_by_label("What to look for")
    query.fill("neurn")
    expect(page.get_by_text("'neurn' is not understood")).to_be_visible()
    query.fill("neuron block:3 place:>99")
    expect(page.get_by_text("6 units of neurons, block 3, place above 99.")).to_be_visible()
    best = page.locator('.ag-row[row-index="0"] [col-id="unit"]')
    expect(best).to_contain_text("neuron.3.")
    unit = best.inner_text()
    best.click()
    expect(page.get_by_label("Selected unit")).to_have_value(unit)
    expect(page.get_by_role("heading", name=f"What {unit} takes from and gives to")).to_be_visible()
    expect(page.get_by_role("heading", name=f"The strongest paths through {unit}")).to_be_visible()
    expect(query).to_have_value("neuron block:3 place:>99")


def test_what_is_drawn_around_in_a_figure_goes_and_the_mask_is_kept_in_the_run(
    page: Page, run_folder: Path, tiny: Model, tmp_path: Path
) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    with visited(page, tmp_path / "run") as address:
        opened(page, f"{address}?view=prune&score=wanda&against=magnitude&units=neuron&sparsity=0.2")
        page.get_by_role("button", name="Remove what is drawn around").click()
        expect(page.get_by_text("draw a box or a lasso around units in the figure first")).to_be_visible()
        draw_around(page, "divided")
        name = "edited-wanda-0.2-uniform-neuron"
        page.get_by_role("button", name="Remove what is drawn around").click()
        expect(page.get_by_text(f"Kept in the run as {name}")).to_be_visible()
        mask = Mask.load(tmp_path / "run" / "masks" / f"{name}.safetensors", tiny.units, tiny.identity)
        gone = mask.removed_parameters(tiny.units)
        assert gone > 0.25 * tiny.units.prunable_parameters("neuron")
        expect(page.get_by_text(f"{tiny.n_parameters - gone:,}", exact=True)).to_be_visible()
        expect(page.get_by_role("heading", name=f"What {name} removes")).to_be_visible()
        expect(page.get_by_text("mask apply tiny")).to_be_visible()
        page.get_by_role("tab", name="Overview").click()
        expect(page.get_by_role("cell", name=name)).to_be_visible()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_slider_says_at_once_what_stays_and_the_same_is_then_pruned_for_real(
    page: Page, run_folder: Path, tiny: Model, tmp_path: Path
) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    with visited(page, tmp_path / "run") as address:
        opened(page, f"{address}?view=prune&score=magnitude&units=neuron&sparsity=0.24")
        expect(page.get_by_text(left(tiny, 0.24))).to_be_visible()
        page.get_by_role("slider").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_text(left(tiny, 0.25))).to_be_visible()
        page.get_by_role("button", name="Prune and evaluate").click()
        expect(page.get_by_text("Done: magnitude-0.25-uniform-neuron")).to_be_visible(timeout=300_000)
        expect(page.get_by_role("cell", name="perplexity, dense")).to_be_visible()
        report = json.loads((tmp_path / "run" / "evaluations" / "magnitude-0.25-uniform-neuron.json").read_text())
        expect(page.get_by_role("cell", name=f"{report['perplexity']:.2f}", exact=True)).to_be_visible()
        assert f"{report['params']:,}" == left(tiny, 0.25)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download the mask").click()
        download.value.save_as(tmp_path / "mask.safetensors")
        page.get_by_label("Threshold of magnitude").fill("20")
        page.get_by_role("button", name="Remove what scores less").click()
        edited = "edited-magnitude-0.25-uniform-neuron"
        expect(page.get_by_text(f"Kept in the run as {edited}")).to_be_visible()
        page.get_by_role("button", name="Prune and evaluate").click()
        expect(page.get_by_text(f"Done: {edited}")).to_be_visible(timeout=300_000)
        report = json.loads((tmp_path / "run" / "evaluations" / f"{edited}.json").read_text())
        expect(page.get_by_role("cell", name=f"{report['perplexity']:.2f}", exact=True)).to_be_visible()
        page.wait_for_load_state("networkidle")
        page.goto("about:blank")  # before the server ends, of which it would ask more
    mask = Mask.load(tmp_path / "mask.safetensors", tiny.units, tiny.identity)
    made = Mask.load(tmp_path / "run" / "masks" / "magnitude-0.25-uniform-neuron.safetensors")
    assert all(torch.equal(mask.keep[name], made.keep[name]) for name in made.keep)


def left(model: Model, sparsity: float) -> str:
    """The parameters that stay when a share of the neurons' goes."""
    cost = model.units["neuron.0"].parameters_per_unit
    gone = round(sparsity * model.units.prunable_parameters("neuron") / cost)
    return f"{model.n_parameters - gone * cost:,}"


def test_a_broken_and_a_missing_run_say_what_is_wrong(page: Page, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "broken")
    (tmp_path / "broken" / "manifest.json").write_text("{")
    with visited(page, tmp_path / "broken") as address:
        page.goto(address)
        expect(page.get_by_text("This run can't be shown")).to_be_visible()
        expect(page.get_by_text("manifest.json cannot be read as JSON")).to_be_visible()
    with visited(page, tmp_path / "missing") as address:
        page.goto(address)
        expect(page.get_by_text("there is no folder")).to_be_visible()


def test_a_run_with_a_graph_alone_says_what_is_missing(page: Page, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "half", ignore=shutil.ignore_patterns("scores", "masks"))
    with visited(page, tmp_path / "half") as address:
        page.goto(address)
        expect(page.get_by_text("No scores yet")).to_be_visible()
        expect(page.get_by_text("This run has no masks yet")).to_be_visible()
        expect(page.get_by_role("heading", name="The model, block by block")).to_be_visible()


def test_a_link_that_cannot_be_shown_says_why(page: Page, address: str) -> None:
    page.goto(f"{address}?view=nothing")
    expect(page.get_by_text("it is one of overview")).to_be_visible()
