"""How quickly the explorer answers on a run, and how much it sends: ``python -m tests.benchmarks.explorer RUN``.

Every figure and text is asked for in states that differ, as by a person who clicks; the first round, which reads files
and sweeps the graph, is told apart.
"""

import sys
import time
from pathlib import Path
from statistics import median, quantiles

from dash import Dash  # noqa: F401 - its import is no part of the first answer

from graphprune.explorer.data import RunData
from graphprune.explorer.state import State
from graphprune.explorer.views import FIGURES, TEXTS, drawn

LAYERS = (0, 3, 11, 17, 29)


def main(folder: str) -> None:
    data = RunData(Path(folder).absolute())
    n_layers = data.manifest()["model"]["n_layers"]
    scores = data.scores_there()
    states = [
        State(score=scores[i % len(scores)], unit=f"neuron.{layer % n_layers}.{i}", sparsity=0.1 + 0.05 * i)
        for i, layer in enumerate(LAYERS)
    ]
    print("| what | first, ms | median, ms | slowest, ms | largest answer, kB |\n| --- | ---: | ---: | ---: | ---: |")
    later = []
    for name in (*FIGURES, *TEXTS):
        times, sizes = [], []
        for state in map(data.resolved, states):
            start = time.perf_counter()
            if name in FIGURES:
                sizes.append(len(drawn(name, data, state).to_json()))
            else:
                TEXTS[name](data, state)
            times.append(1000 * (time.perf_counter() - start))
        later += times[1:]
        size = f"{max(sizes) / 1000:.0f}" if sizes else ""
        print(f"| {name} | {times[0]:.0f} | {median(times[1:]):.0f} | {max(times[1:]):.0f} | {size} |", flush=True)
    print(f"\nafter the first: median {median(later):.0f} ms, 95th percentile {quantiles(later, n=20)[-1]:.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
