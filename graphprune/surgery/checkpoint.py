"""Saving a pruned model, then loading it again with stock code to see that it is the one that was meant."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int

from graphprune.core.errors import GraphpruneError
from graphprune.core.io import read_json, replacing_folder, save_tensors, write_json
from graphprune.core.mask import Mask
from graphprune.core.progress import progress
from graphprune.models.architecture import Decoder
from graphprune.models.checkpoint import Checkpoint
from graphprune.models.model import Model, build_causal_lm, naming_of_config
from graphprune.models.naming import Naming
from graphprune.models.offloaded import offloaded
from graphprune.surgery.cut import Plan
from graphprune.surgery.shape import Rung, Shape, shape_of

SHARD_BYTES = 1 << 30
TOLERANCE = 1e-4
LOADERS: dict[Rung, str] = {
    "uniform": "loads in stock transformers and whatever reads its checkpoints: all layers have the same width",
    "padded": "loads in stock transformers: layers differ, so each is zero-padded to the widest of them",
    "ragged": "loads in transformers after `import graphprune`: every layer has widths of its own, nothing is padded",
    "masked": "loads wherever the dense model does, and is neither smaller nor faster: removed weights are zeros",
    "excised": "loads in graphprune: a perceptron's layers have widths of their own",
}


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was written, loaded again and compared.

    Attributes:
        folder: where it is.
        rung: `uniform`, `padded`, `ragged`, `masked`, or `excised` for a perceptron.
        why: who can load it, and why this rung.
        max_difference: largest absolute difference of logits to the zeroed dense model, in float32.
        n_parameters: in the checkpoint, padding included.
        n_bytes: of its weight files.
    """

    folder: Path
    rung: Rung
    why: str
    max_difference: float
    n_parameters: int
    n_bytes: int


def save_pruned(model: Model, mask: Mask, folder: Path, *, rung: str = "auto") -> Saved:
    """Writes the pruned model as a checkpoint and proves it: the folder appears only once its logits are right.

    The reference is the dense model with the removed units' weights set to zero, in float32, on 2 x 32 seeded tokens
    (or fewer, where the model reads fewer at a time). Both are read layer by layer.

    Cost: the model is read twice, the checkpoint once; at most one shard is in memory.

    Raises:
        InputError: the mask doesn't allow the rung.
        GraphpruneError: the disk is full, or the checkpoint's logits are not those of the zeroed model.
    """
    shape = shape_of(model, mask, rung)
    with replacing_folder(folder) as temporary:
        config = shape.config(model.config)
        write_json(temporary / "config.json", config)
        _write_weights(model, shape, temporary)
        _copy_companions(model, temporary)
        note = {"rung": shape.rung, "from": model.name, "from_checkpoint": model.identity, "method": mask.method}
        write_json(temporary / "graphprune.json", note | {"options": dict(mask.options)})
        difference, scale = verify(model, mask, temporary)
        if not difference <= TOLERANCE * max(scale, 1.0):
            raise GraphpruneError(
                f"the saved checkpoint is wrong: its logits differ from the zeroed model's by up to {difference:.3g}"
            )
    saved = Checkpoint(folder)
    n_parameters = sum(torch.Size(size).numel() for size in saved.shapes.values())
    return Saved(folder, shape.rung, LOADERS[shape.rung], difference, n_parameters, saved.n_bytes)


@dataclass(frozen=True)
class _Shaped(Mapping[str, torch.Tensor]):
    """A model's parameters in their new shapes, each made when it is needed; those that are left."""

    model: Model
    shape: Shape

    def __getitem__(self, name: str) -> torch.Tensor:
        if not self.shape.has(name):
            raise KeyError(name)
        return self.shape.parameter(name, self.model.parameters[name])

    def __contains__(self, name: object) -> bool:
        return name in self.model.shapes and self.shape.has(str(name))

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.model.shapes if self.shape.has(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class _Zeroed(Mapping[str, torch.Tensor]):
    """Parameters with what goes set to zero, each made when it is needed."""

    parameters: Mapping[str, torch.Tensor]
    plan: Plan

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.plan.zeroed(name, self.parameters[name])

    def __contains__(self, name: object) -> bool:
        return name in self.parameters

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)


@dataclass(frozen=True)
class _InFile(Mapping[str, torch.Tensor]):
    """What lies in a checkpoint, by what the network calls it."""

    checkpoint: Checkpoint
    naming: Naming

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.checkpoint[self.naming.in_file(name)]

    def __contains__(self, name: object) -> bool:
        return self.naming.in_file(str(name)) in self.checkpoint

    def __iter__(self) -> Iterator[str]:
        return (self.naming.in_network(name) for name in self.checkpoint)

    def __len__(self) -> int:
        return len(self.checkpoint)


def _write_weights(model: Model, shape: Shape, folder: Path) -> None:
    parameters, naming = _Shaped(model, shape), shape.naming or model.naming
    shards, stock = list(_shards(model, parameters)), naming.stock(parameters)
    weight_map: dict[str, str] = {}
    for index, names in enumerate(progress(shards, "writing the checkpoint", unit="shard")):
        file = "model.safetensors" if len(shards) == 1 else f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        save_tensors(folder / file, {naming.in_file(name): stock[name] for name in names}, {"format": "pt"})
        weight_map |= dict.fromkeys(map(naming.in_file, names), file)
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _shards(model: Model, parameters: Iterable[str]) -> Iterator[list[str]]:
    """Stock names of parameters in shards of at most `SHARD_BYTES` (of four bytes a value, to be safe)."""
    names: list[str] = []
    size, sizes = 0, dict[str, int]()
    for name in parameters:
        stock, _ = model.naming.parameter(name)
        sizes[stock] = sizes.get(stock, 0) + 4 * torch.Size(model.shapes[name]).numel()
    for name, n_bytes in sorted(sizes.items()):
        if names and size + n_bytes > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += n_bytes
    yield names


def _copy_companions(model: Model, folder: Path) -> None:
    """The tokenizer and generation settings, so that the folder stands alone."""
    if model.folder is None:
        if model.text_tokenizer is not None and hasattr(model.text_tokenizer, "save_pretrained"):
            model.text_tokenizer.save_pretrained(str(folder))
        return
    known = {"config.json", "graphprune.json", "origin.json"}
    for path in model.folder.iterdir():
        tokenizer_like = path.name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "generation_config"))
        if path.is_file() and path.name not in known and (tokenizer_like or path.suffix in {".model", ".jinja"}):
            shutil.copyfile(path, folder / path.name)


def verify(model: Model, mask: Mask, folder: Path) -> tuple[float, float]:
    """The largest absolute difference of a checkpoint's logits to the zeroed model's, and the largest logit."""
    reference = _Zeroed(model.parameters, Plan.of(mask, model.units))
    if isinstance(model.architecture, Decoder):
        vocabulary = int(model.shapes["model.embed_tokens.weight"][0])
        window = min(32, model.n_positions or 32)
        ids = torch.randint(vocabulary, (2, window), generator=torch.Generator().manual_seed(0))
        expected = _logits(offloaded(model.config, model.naming.stock(reference)), ids)
        config = read_json(folder / "config.json")
        build_causal_lm(config, {}, folder, torch.float32, device_map={"": "meta"})  # it loads, but isn't read
        found = _logits(offloaded(config, _InFile(Checkpoint(folder), naming_of_config(config))), ids)
    else:
        width = model.architecture.sizes[0]
        inputs = torch.randn(32, width, generator=torch.Generator().manual_seed(0))
        expected = _outputs(Model.from_parameters(model.config, reference), inputs)
        found = _outputs(Model.from_folder(folder), inputs)
    return float((expected - found).abs().max()), float(expected.abs().max())


def _logits(network: Any, ids: Int[torch.Tensor, "batch seq"]) -> Float[torch.Tensor, "batch seq vocab"]:
    with torch.inference_mode():
        result: torch.Tensor = network.eval()(input_ids=ids, use_cache=False).logits.float()
    return result


def _outputs(model: Model, inputs: Float[torch.Tensor, "batch in"]) -> Float[torch.Tensor, "batch out"]:
    with torch.inference_mode():
        result: torch.Tensor = model.module(dtype=torch.float32)(inputs)
    return result
