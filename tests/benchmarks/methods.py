"""Every method on a real model: the README's tables and its plot, from the study `studies/methods.toml`.

python -m tests.benchmarks.methods --data FOLDER -o STUDY [--plot FILE]

FOLDER has the texts that the study names. Structured methods at equal shares of the decoder blocks' linear parameters
(methods that rank neurons alone take more of these); single weights at equal shares of the same. Nothing is chosen
here: the calibration text calibrates, the evaluation text is only reported on. A method that needs no calibration
cuts at once; the others go through the sequential engine. Statistics, gradients and credit of the dense model are
measured once for all sparsities, so that the median seconds are without them; `tests.benchmarks.engine` has them. A
run that was stopped goes on where it was. With `--times STUDY` the seconds are taken from another folder, made with
the machine to itself.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from graphprune import load_model
from graphprune.core.units import HEAD, KV_HEAD, NEURON
from graphprune.plots import study_curves
from graphprune.plots.image import image
from graphprune.steps.studying import RESULTS, Begun, study
from graphprune.studies.store import Store
from graphprune.studies.study import DENSE, Study
from graphprune.studies.table import Row, Table

STUDY = Path(__file__).parents[2] / "studies" / "methods.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="STUDY")
    parser.add_argument("--only", nargs="*", help="these structured methods alone")
    parser.add_argument("--times", type=Path, metavar="STUDY", help="seconds are from there")
    parser.add_argument("--plot", type=Path, help="where to draw the structured methods: .png or .svg")
    args = parser.parse_args()
    asked = Study.read(args.study, data=args.data)
    if args.only is not None:
        asked = replace(asked, ways=tuple(way for way in asked.ways if way.label in args.only or way.recipe.of_weights))
    table = study(asked, args.output)
    units = [way.label for way in asked.ways if not way.recipe.of_weights]
    structured = replace(table, rows=tuple(row for row in table.rows if row.method in {DENSE, *units}))
    (name, source), (draw,) = next(iter(asked.models.items())), asked.draws
    model = load_model(source)
    share = model.units.prunable_parameters(HEAD, KV_HEAD, NEURON) / model.n_parameters
    (quality,) = table.rows[0].means
    print(f"{name}, dense {table.rows[0].means[quality]:.2f}; {asked.judging.max_windows} windows of "
          f"{asked.judging.seq_len}, calibrated on {draw.n_samples} x {draw.seq_len} tokens; block parameters are "
          f"{share:.1%} of all\n")  # fmt: skip
    times = table if args.times is None else _known(asked, args.times)
    at = structured.sparsities
    _show("method", [f"{s:.0%}" for s in at], structured.rows[1:], times, lambda row: row.method)
    print("| parameters kept, of all | " + " | ".join(f"{1 - s * share:.1%}" for s in at) + " | |")
    missed = max(abs(row.removed - row.sparsity) for row in structured.rows)
    print(f"\nEvery mask removes what is asked of it to within {missed:.3%} of the block parameters.\n")
    single = [row for row in table.rows if row not in structured.rows]
    _show("single weights", [*dict.fromkeys(map(_amount, single))], single, times, _scorer)
    if args.plot is not None:
        args.plot.write_bytes(image(study_curves(structured), args.plot.suffix.removeprefix("."), 1000))


def _known(asked: Study, folder: Path) -> Table:
    """What another folder has of a study."""
    results = Store(folder / RESULTS).results()
    items = Begun.of(asked, folder).items
    return Table.of(asked.title, [(cell, results[key]) for key, cell in items if key in results])


def _scorer(row: Row) -> str:
    """Which method single weights are of: ``NAME, pattern N:M`` and ``NAME, single weights`` are one."""
    return row.method.split(", ")[0]


def _amount(row: Row) -> str:
    return row.method.split("pattern ")[1] if "pattern " in row.method else f"{row.sparsity:.0%}"


def _show(what: str, columns: list[str], rows: Iterable[Row], times: Table, by: Callable[[Row], str]) -> None:
    """A line for the rows of one name."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(by(row), []).append(row)
    print(f"| {what} | " + " | ".join(columns) + " | seconds |")
    print("|---" * (2 + len(columns)) + "|")
    for name, mine in lines.items():
        labels = {row.method for row in mine}
        seconds = sorted(row.seconds for row in times.rows if row.method in labels)
        median = f"{seconds[len(seconds) // 2]:.0f}" if seconds else ""
        print(f"| {name} | " + " | ".join(_number(next(iter(row.means.values()))) for row in mine) + f" | {median} |")


def _number(perplexity: float) -> str:
    return f"{perplexity:,.1f}" if perplexity < 1000 else f"{perplexity:,.0f}"


if __name__ == "__main__":
    main()
