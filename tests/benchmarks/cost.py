"""What a pruned model really saves: size, FLOPs, memory and speed, dense, masked, padded and ragged in one run.

python -m tests.benchmarks.cost [--model smollm2-135m] [--sparsity 0.4] [--repeats 7]

Speed depends on shapes and not on which units go, so they are drawn at random, one head from every key/value group,
with SlimGPT's logarithmic schedule (`log`, which spares early layers) and with the same share of every layer
(`uniform`). Whole attentions and MLPs (`depth`) go by their influence on a few windows of the shipped text. Only the
speed is a result here: nobody wants the model.
"""

import argparse
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from graphprune import Mask, Model, load_model
from graphprune.evaluation.cost import ASSUMES, WHY_NO_SPEED
from graphprune.evaluation.speed import Workload
from graphprune.methods import Cut, Recipe
from graphprune.models import tiny
from graphprune.models.model import DTYPES
from graphprune.pruning import Evidence, apply
from graphprune.solvers.scores import Influence
from graphprune.steps.costing import cost_step, tables
from graphprune.surgery.checkpoint import save_pruned

TEXT = Path(*tiny.__path__) / "calibration.txt"
VARIANTS = ("log-masked", "log-padded", "log-ragged", "uniform-ragged", "depth-ragged")


def mask_of(dense: Model, allocation: str, sparsity: float) -> Mask:
    """What stays of a model; see the module."""
    if allocation != "depth":
        recipe = Recipe.of("random", cut=Cut(allocation, head_mode="balanced"))
        return apply(recipe, sparsity, Evidence(dense)).mask
    evidence = Evidence.of_text(dense, TEXT, n_samples=4, seq_len=64)
    scores = evidence.solved_scores(Influence())
    return apply(Recipe.of(None, cut=Cut(depth=1.0)), sparsity, Evidence(dense), given=scores).mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sparsity", type=float, default=0.4, help="of the blocks' parameters")
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=VARIANTS, help="allocation and rung")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    dense = load_model(args.model)
    workload = Workload(tuple(args.batch_sizes), args.prompt, args.new_tokens, args.repeats, clock=args.clock)
    with TemporaryDirectory() as folder:
        models = [dense]
        for variant in args.only:
            allocation, rung = variant.split("-")
            mask = mask_of(dense, allocation, args.sparsity)
            saved = save_pruned(dense, mask, Path(folder) / variant, rung=rung)
            models.append(load_model(saved.folder))
        dtype = None if args.dtype is None else DTYPES[args.dtype]
        report = cost_step(models, workload, dtype=dtype, device=args.device, memory=not args.no_memory)
    for row in (*report["models"], *report["speed"]):
        row["model"] = Path(row["model"]).name
    print(f"{report['dtype']} on {report['device']}, {report['threads']} threads, {args.clock} clock")
    for table in tables(report):
        print("\n".join("| " + " | ".join(cells) + " |" for cells in table), end="\n\n")
    print(f"{WHY_NO_SPEED}\nbound: {ASSUMES}")


if __name__ == "__main__":
    main()
