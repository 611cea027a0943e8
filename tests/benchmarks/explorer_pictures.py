"""Pictures of every page of the explorer on a run, light and dark, wide and narrow, by a real browser.

python -m tests.benchmarks.explorer_pictures RUN -o FOLDER [--unit neuron.3.17] [--pages overview graph ...]

RUN has a graph and at least two scores; masks, evaluations and comparisons are shown where there are some. Says how
long each page took until all of its figures were drawn, and ends with an error if the browser's console had one.
"""

import argparse
import shutil
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from graphprune.explorer.data import RunData
from graphprune.explorer.state import VIEWS, State
from tests.app.conftest import served
from tests.app.test_journeys import opened

SIZES = {"wide": 1400, "narrow": 420}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--unit", default="neuron.3.17")
    parser.add_argument("--score")
    parser.add_argument("--against")
    parser.add_argument("--clip", action="store_true", help="what is on the screen, not the whole page")
    parser.add_argument("--pages", nargs="+", choices=VIEWS, default=VIEWS)
    args = parser.parse_args()
    data = RunData(args.run.absolute())
    args.output.mkdir(parents=True, exist_ok=True)
    program = shutil.which("chromium")
    with served(data.folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        said = [line for page in args.pages for line in _pictures(browser, address, data, page, args)]
        browser.close()
    if said:
        raise SystemExit("the browser's console says: " + "; ".join(said))


def _pictures(browser: Browser, address: str, data: RunData, view: str, args: argparse.Namespace) -> list[str]:
    """Of one page; and what the console says that is an error."""
    said: list[str] = []
    masks = [*data.masks_there(), "", ""]
    state = State(
        view, args.score or "", args.against or "", masks[0], masks[1], args.unit, find="neuron place:>99.9"
    )  # fmt: skip
    for theme in ("light", "dark"):
        for size, width in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": 1150})
            page.set_default_timeout(120_000)
            page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: said.append(str(error)))
            start = time.perf_counter()
            opened(page, address + state.given({"theme": theme}).query())
            print(f"{view}, {theme}, {size}: {time.perf_counter() - start:.1f} s", flush=True)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=args.output / f"{view}-{theme}-{size}.png", full_page=not args.clip)
            page.close()
    return said


if __name__ == "__main__":
    main()
