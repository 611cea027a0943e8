"""Torch-Pruning, optipfair and our presets on one model: perplexity at equal parameters, and the time it took.

python -m tests.benchmarks.rivals --model smollm2-135m --calibration VALID --text TEST -o FOLDER

The rivals are installed from PyPI, at the versions below, into an environment of their own in FOLDER; there
`tests/benchmarks/rival.py` prunes and saves an ordinary checkpoint, which is then read here and measured by the same
harness on the same windows as ours. The rivals remove the same number of neurons from every MLP, which is what both can
do; of our presets those that can do the same stand beside them, then those that also remove heads and repair, at the
same number of parameters. All calibrate on the same windows. Seconds are of pruning, everything that it measures
included. Every result is a line of FOLDER/rivals.jsonl, or of the study in FOLDER/ours, and found again.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphprune import Model, load_model
from graphprune.calibration.forward import calibration_rows
from graphprune.core.io import save_tensors
from graphprune.core.units import HEAD, KV_HEAD, NEURON
from graphprune.evaluation.evaluate import evaluate
from graphprune.methods import Cut, Recipe
from graphprune.steps.studying import study
from graphprune.studies.study import Draw, Judging, Study, Way
from tests.benchmarks.results import Results
from tests.benchmarks.rival import RIVALS

ROOT = Path(__file__).parents[2]
PINNED = ("torch-pruning==1.6.1", "optipfair==0.4.2")
NEURONS = Cut(units="neuron")
OURS: dict[str, Recipe] = {
    "taylor, neurons alone": Recipe.of("taylor", cut=NEURONS),
    "wanda, neurons alone": Recipe.of("wanda", cut=NEURONS),
    "slimgpt, neurons alone": Recipe.of("slimgpt", cut=NEURONS),
    "slimgpt": Recipe.of("slimgpt"),
    "graphslim": Recipe.of("graphslim"),
}


@dataclass(frozen=True)
class Setting:
    """What all are given."""

    model: Model
    calibration: Path
    n_samples: int
    seq_len: int
    text: Path
    max_windows: int
    neurons: int
    folder: Path

    @property
    def params(self) -> int:
        """What is left when so many neurons of every MLP are gone."""
        (first, *_) = self.model.units.of_kind(NEURON)
        each = self.model.units.prunable_parameters(NEURON) // (first.size * self.model.architecture.n_layers)
        return self.model.n_parameters - each * self.neurons * self.model.architecture.n_layers

    @property
    def sparsity(self) -> float:
        """That, as a share of the blocks' linear parameters."""
        return (self.model.n_parameters - self.params) / self.model.units.prunable_parameters(HEAD, KV_HEAD, NEURON)

    def rival(self, name: str, python: Path) -> dict[str, Any]:
        """What a rival makes of the model."""
        tokens, checkpoint = self.folder / "tokens.safetensors", self.folder / name.replace(", ", "-").replace(" ", "-")
        windows = {"n_samples": self.n_samples, "seq_len": self.seq_len, "seed": 0}
        save_tensors(tokens, {"tokens": calibration_rows(self.model, self.calibration, **windows)}, {})
        command = [python, ROOT / "tests" / "benchmarks" / "rival.py", name, "--model", self.model.folder]
        command += ["--tokens", tokens, "--neurons", self.neurons, "-o", checkpoint]
        done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if told["params"] != self.params:
            raise RuntimeError(f"{name} left {told['params']:,} parameters, not {self.params:,}")
        report = evaluate(
            load_model(checkpoint), self.text, seq_len=self.seq_len, max_windows=self.max_windows
        )  # fmt: skip
        return {"params": report.params, "seconds": told["seconds"], "perplexity": report.perplexity}

    def ours(self, label: str, recipe: Recipe) -> dict[str, Any]:
        """Likewise one of our presets, in a study of its own, so that its seconds hold all that it measures."""
        draw = Draw(self.calibration, self.n_samples, self.seq_len)
        judging = Judging((self.text,), self.seq_len, self.max_windows)
        ways = (Way(label, recipe, (self.sparsity,)),)
        source = {self.model.name: str(self.model.folder)}
        table = study(
            Study("rivals", source, ways, judging, draws=(draw,), sparsity_of="blocks"), self.folder / "ours"
        )  # fmt: skip
        row = table.rows[1]
        params = round(self.model.n_parameters * (1 - row.params_removed))
        return {"params": params, "seconds": row.seconds, "perplexity": row.means[f"perplexity.{self.text.stem}"]}


def installed(folder: Path) -> Path:
    """The Python of an environment that has the rivals, made if it isn't there."""
    python, note = folder / "bin" / "python", folder / ".installed"
    if not note.is_file() or note.read_text() != "\n".join(PINNED):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        needed = ("torch", "transformers", "safetensors", *PINNED)
        subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), *needed], check=True, stdout=sys.stderr)
        note.write_text("\n".join(PINNED))
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--n-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--max-windows", type=int, default=24)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.2, 0.4], help="of the neurons of every MLP")
    parser.add_argument("--only", nargs="*", help="these rivals and presets alone")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    python = installed(args.output.absolute() / "environment")
    model = load_model(args.model)
    sizes = {"model": model.identity, "windows": args.max_windows, "samples": args.n_samples, "seq_len": args.seq_len}
    results = Results.read(args.output / "rivals.jsonl", sizes | {"texts": [args.calibration.name, args.text.name]})

    def dense() -> dict[str, Any]:
        return {"perplexity": evaluate(model, args.text, seq_len=args.seq_len, max_windows=args.max_windows).perplexity}

    found = results.of({"by": "dense"}, dense)
    print(f"{model.name}, {model.n_parameters:,} parameters, dense {found['perplexity']:.2f} on {args.max_windows} "
          f"windows of {args.seq_len} tokens of {args.text.name}; {', '.join(PINNED)}\n")  # fmt: skip
    print("| removed of every MLP's neurons | by | parameters | perplexity | seconds |\n|---|---|---|---|---|")
    for sparsity in args.sparsity:
        neurons = round(sparsity * model.units.of_kind(NEURON)[0].size)
        setting = Setting(
            model, args.calibration, args.n_samples, args.seq_len, args.text, args.max_windows, neurons,
            args.output.absolute(),
        )  # fmt: skip
        for name in (each for each in (*RIVALS, *OURS) if args.only is None or each in args.only):
            key = {"by": name, "neurons": neurons}
            found = results.of(key, lambda name=name, setting=setting: _one(setting, name, python))  # type: ignore[misc]
            numbers = f"{found['params']:,} | {found['perplexity']:,.1f} | {found['seconds']:.0f}"
            print(f"| {sparsity:.0%} | {name} | {numbers} |", flush=True)


def _one(setting: Setting, name: str, python: Path) -> dict[str, Any]:
    return setting.rival(name, python) if name in RIVALS else setting.ours(name, OURS[name])


if __name__ == "__main__":
    main()
