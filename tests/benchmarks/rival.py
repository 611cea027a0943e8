"""One model pruned by one rival, run in the rivals' own environment, where there is no graphprune; see `rivals.py`.

python rival.py RIVAL --model FOLDER --tokens FILE --neurons N -o FOLDER

Removes N neurons of every MLP and saves an ordinary checkpoint in the dense one's type; prints one JSON object with the
seconds, in which reading the calibration windows is included and loading and saving the model are not.
"""

import argparse
import importlib
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

Prune = Callable[[Any, torch.Tensor, int], None]


def torch_pruning(importance: str) -> Prune:
    """Torch-Pruning: a dependency group for the rows of each `up_proj`, cut with all that hangs on it."""

    def prune(network: Any, tokens: torch.Tensor, n: int) -> None:
        tp = importlib.import_module("torch_pruning")
        network.config.use_cache = False  # tracing a cache doesn't end
        example = {"input_ids": tokens[:1, :8], "use_cache": False}
        graph = tp.DependencyGraph().build_dependency(
            network, example_inputs=example, forward_fn=lambda model, inputs: model(**inputs).logits
        )
        if importance == "GroupTaylorImportance":
            for row in tokens:
                network(input_ids=row[None], labels=row[None], use_cache=False).loss.backward()
        score = getattr(tp.importance, importance)()
        for layer in network.model.layers:
            up = layer.mlp.up_proj
            group = graph.get_pruning_group(up, tp.prune_linear_out_channels, list(range(up.out_features)))
            lowest = score(group).argsort()[:n].tolist()
            graph.get_pruning_group(up, tp.prune_linear_out_channels, lowest).prune()
        network.config.intermediate_size = network.model.layers[0].mlp.up_proj.out_features

    return prune


def optipfair(method: str, *, with_text: bool = False) -> Prune:
    """optipfair: pairs of gate and up rows, by their weights or by these and activations."""

    def prune(network: Any, tokens: torch.Tensor, n: int) -> None:
        width = network.config.intermediate_size
        importlib.import_module("optipfair").prune_model(
            network, pruning_type="MLP_GLU", neuron_selection_method=method,
            pruning_percentage=100 * (n + 0.5) / width,  # it rounds down
            dataloader=[{"input_ids": row[None]} for row in tokens] if with_text else None, show_progress=False,
        )  # fmt: skip

    return prune


RIVALS: dict[str, Prune] = {
    "Torch-Pruning, group L2": torch_pruning("GroupMagnitudeImportance"),
    "Torch-Pruning, Taylor": torch_pruning("GroupTaylorImportance"),
    "optipfair, MAW": optipfair("MAW"),
    "optipfair, MAW with activations": optipfair("MAW", with_text=True),
    "optipfair, VOW": optipfair("VOW"),
    "optipfair, PON": optipfair("PON"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rival", choices=RIVALS)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--neurons", type=int, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")  # the rivals' own
    network = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    dtype = getattr(torch, json.loads((args.model / "config.json").read_text()).get("dtype") or "float32")
    tokens = load_file(args.tokens)["tokens"]
    start = time.perf_counter()
    RIVALS[args.rival](network, tokens, args.neurons)
    seconds = time.perf_counter() - start
    network.to(dtype).save_pretrained(args.output)
    AutoTokenizer.from_pretrained(args.model).save_pretrained(args.output)
    print(json.dumps({"seconds": round(seconds, 1), "params": sum(p.numel() for p in network.parameters())}))


if __name__ == "__main__":
    main()
