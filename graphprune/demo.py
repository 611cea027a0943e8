"""The whole story in one command: export, rank, score with every scorer, prune at three sparsities, evaluate."""

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from graphprune.calibration.text import read_text, spread, windows
from graphprune.core.errors import InputError
from graphprune.core.mask import Mask
from graphprune.core.run import Run
from graphprune.core.scores import Scores
from graphprune.evaluation.masked import perplexity_of_masks
from graphprune.evaluation.perplexity import perplexity
from graphprune.methods import Cut, Recipe
from graphprune.models.fetch import NAMED
from graphprune.models.load import load_model
from graphprune.models.model import Model
from graphprune.pruning import cut
from graphprune.scorers import SCORERS
from graphprune.steps.pipeline import Calibration, export_step, open_run, prune_step, rank_step, score_step

SPARSITIES = (0.1, 0.2, 0.4)
SHIPPED = Path(__file__).parent / "models" / "tiny"
N_SAMPLES, SEQ_LEN, MAX_WINDOWS = 32, 256, 10
LARGE = 10_000_000


def demo(
    name: str,
    folder: Path | None = None,
    *,
    calibration: Path | None = None,
    text: Path | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs every step on a model and compares every scorer.

    Args:
        name: a model.
        folder: the run folder; `graphprune-demo-NAME` in the current folder by default.
        calibration: a UTF-8 text; the shipped one by default.
        text: a UTF-8 text to evaluate on; the shipped one by default.
        device: of the forward passes.
        quiet: print nothing.

    Returns:
        The dense perplexity, the perplexity of every scorer at every sparsity, and the paths of what was written.

    Raises:
        GraphpruneError: the model can't be had, or a path can't be used.
    """
    say = _Narrator(quiet)
    for path in (calibration, text):
        if path is not None and not path.is_file():
            raise InputError(f"the text {path} is not there")
    if name in NAMED:
        say(f"Fetching {name}")
    model = load_model(name)
    if model.is_perceptron:
        raise InputError("the demo tells its story on a language model")
    say(f"1. {name}: {model.n_parameters:,} parameters, {len(model.units.layers)} blocks")
    run = open_run(folder or Path(f"graphprune-demo-{Path(name).name}"), model)
    rows = spread(windows(model.tokenizer, read_text(text or SHIPPED / "evaluation.txt"), SEQ_LEN), MAX_WINDOWS)
    source = Calibration(
        calibration or SHIPPED / "calibration.txt", n_samples=N_SAMPLES, seq_len=SEQ_LEN, device=device
    )
    say(f"   This will take about {_estimate(model, rows, device)}.")

    graph = export_step(model, run, calibration=source)
    say(f"2. Its graph: {graph['nodes']:,} nodes, {graph['edges']:,} edges, {graph['bytes'] / 1e6:,.1f} MB on disk")
    ranked = rank_step(run, direction="backward", alpha=0.9, personalization="outputs")
    top = ", ".join(entry["unit"] for entry in ranked["top"][:3])
    say(f"3. PageRank from the output back, exact in one sweep over the edges; highest: {top}")
    say(f"4. Scoring heads and neurons with {len(SCORERS)} scorers on {N_SAMPLES} x {SEQ_LEN} tokens")
    scores = {scorer: score_step(model, run, scorer=scorer, calibration=source)[0] for scorer in SCORERS}
    say(f"5. Removing MLP neurons from every block alike, no repair; perplexity on {len(rows)} x {SEQ_LEN} tokens")
    dense, table = _compare(model, scores, rows, device, say)
    best = min(SCORERS, key=lambda scorer: table[scorer][SPARSITIES.index(0.2)])
    say(f"6. Saving the best at 20 % ({best}) as a checkpoint, loading it again, comparing logits")
    pruned = prune_step(
        model, run, recipe=Recipe.of(best, cut=Cut(units="neuron")), sparsity=0.2, calibration=source, method=best
    )
    say(f"   {pruned['checkpoint']}: {pruned['checkpoint_params']:,} parameters, rung {pruned['rung']}")
    say(f"   logits within {pruned['max_difference']:.1e} of the zeroed model; {pruned['why']}")
    _say_next(say, name, run, pruned)
    return {
        "model": name, "dense": dense, "sparsities": list(SPARSITIES), "perplexity": table, "run": str(run.folder),
        "checkpoint": pruned["checkpoint"], "mask": pruned["mask"], "seconds": round(say.elapsed(), 1),
    }  # fmt: skip


class _Narrator:
    """Says what happens on stdout, unless told to be quiet; knows how long it has taken."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.start = time.perf_counter()

    def __call__(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def elapsed(self) -> float:
        return time.perf_counter() - self.start


def _estimate(model: Model, rows: torch.Tensor, device: str) -> str:
    """How long the demo will take, from the speed of one window."""
    network = model.module(device=device)
    sample = rows[: 1 if model.n_parameters > LARGE else len(rows)]
    perplexity(network, sample[:1], device=device)
    start = time.perf_counter()
    perplexity(network, sample, device=device)
    window = (time.perf_counter() - start) / len(sample)
    n_masks = 1 + len(SCORERS) * len(SPARSITIES)
    seconds = 1.1 * window * (n_masks * len(rows) + N_SAMPLES) + 5 + 2e-7 * model.n_parameters
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _compare(
    model: Model, scores: dict[str, Scores], rows: torch.Tensor, device: str, say: _Narrator
) -> tuple[float, dict[str, list[float]]]:
    """The dense perplexity, and that of every scorer at every sparsity; a row is printed as soon as it is known."""

    def masks() -> Iterator[Mask]:
        yield Mask.full(model.units)
        for scorer in SCORERS:
            for sparsity in SPARSITIES:
                yield cut(model, scores[scorer], sparsity, Cut(units="neuron"))

    values = perplexity_of_masks(model, masks(), rows, device=device)
    dense = next(values)
    say("")
    say(f"   {'scorer':<12}" + "".join(f"{sparsity:>11.0%}" for sparsity in (0.0, *SPARSITIES)))
    table = {}
    for scorer in SCORERS:
        table[scorer] = [next(values) for _ in SPARSITIES]
        say(f"   {scorer:<12}" + "".join(map(_cell, (dense, *table[scorer]))))
    say("")
    return dense, table


def _cell(perplexity: float) -> str:
    return f"{perplexity:>11,.1f}" if perplexity < 1e5 else f"{perplexity:>11.1e}"


def _say_next(say: _Narrator, name: str, run: Run, pruned: dict[str, Any]) -> None:
    folder = shlex.quote(str(run.folder))
    say(f"\nDone in {say.elapsed():.0f} seconds. Everything is in {run.folder}. What to type next:\n")
    say(f"  graphprune rank {folder} --direction forward")
    say(f"  graphprune convert {folder} --to graphml --level block -o {shlex.quote(f'{Path(name).name}.graphml')}")
    checkpoint, text = shlex.quote(pruned["checkpoint"]), shlex.quote(str(SHIPPED / "evaluation.txt"))
    say(f"  graphprune evaluate {checkpoint} --text {text}")
    other = "smollm2-135m" if name == "tiny" else "MODEL"
    say(f"  graphprune prune {shlex.quote(name)} --method graphrank --sparsity 0.3 -o {folder} \\")
    say(f"      --calibration {shlex.quote(str(SHIPPED / 'calibration.txt'))}")
    say(f"  graphprune demo --model {other}")
