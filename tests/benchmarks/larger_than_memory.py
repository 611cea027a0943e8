"""A checkpoint that is larger than the memory it is pruned in: made, pruned by SlimGPT, killed half-way, and resumed.

python -m tests.benchmarks.larger_than_memory [--gigabytes 12] [--limit 4] [--folder /tmp] [--whole]

The checkpoint is Llama-shaped, in bfloat16, a shard a block, with random weights and the shipped model's tokenizer; it
is made block by block, put out of the page cache, and removed at last. `graphprune prune` runs in a process of its own,
stopped as soon as more than the limit is resident: pages mapped from files count. It is killed once it is half-way. Of
what it had done, the last few blocks are taken away before it goes on, so that it does them a second time: they must be
the same bytes. With `--whole` the model is pruned again without a kill, and all of the two checkpoints is compared.

What bounds the rate is computed from what this machine did here: bytes read from and written to the disk over the rates
at which this script reads and writes, and operations over those of matrix products in the types that they are in.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from graphprune.core.io import save_tensors, write_json
from graphprune.models import tiny
from graphprune.models.checkpoint import Checkpoint

TINY = Path(*tiny.__path__)
AGAIN = 2
"""Blocks that are done a second time."""


@dataclass(frozen=True)
class Sizes:
    """Of a Llama whose blocks are small, so that solving for them, cubic in the width, takes no longer than need be."""

    layers: int
    d_model: int = 2048
    d_mlp: int = 2816
    n_heads: int = 32
    n_kv_heads: int = 8
    vocabulary: int = 32000

    @classmethod
    def of(cls, n_bytes: float, **sizes: int) -> "Sizes":
        """As many blocks as make up so many bytes."""
        one = cls(1, **sizes)
        outside = 2 * 2 * one.vocabulary * one.d_model
        return cls(max(2 * (AGAIN + 1), round((n_bytes - outside) / (2 * one.block))), **sizes)

    @property
    def kv(self) -> int:
        return self.d_model * self.n_kv_heads // self.n_heads

    @property
    def block(self) -> int:
        """Parameters of a block's matrices."""
        return self.d_model * (2 * self.d_model + 2 * self.kv + 3 * self.d_mlp)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_act": "silu",
            "hidden_size": self.d_model, "intermediate_size": self.d_mlp, "num_hidden_layers": self.layers,
            "num_attention_heads": self.n_heads, "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.d_model // self.n_heads, "vocab_size": self.vocabulary, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 0,
        }  # fmt: skip


def parts(sizes: Sizes) -> Iterator[dict[str, torch.Tensor]]:
    """The parameters, shard by shard: the embeddings first, then every block."""
    generator = torch.Generator().manual_seed(0)
    d, scale = sizes.d_model, sizes.d_model**-0.5

    def normal(rows: int, columns: int, by: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).mul_(by).bfloat16()

    ones = torch.ones(d, dtype=torch.bfloat16)
    embeddings = {name: normal(sizes.vocabulary, d, 0.02) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    yield embeddings | {"model.norm.weight": ones}
    del embeddings
    rows = {
        "self_attn.q_proj": d, "self_attn.k_proj": sizes.kv, "self_attn.v_proj": sizes.kv,
        "mlp.gate_proj": sizes.d_mlp, "mlp.up_proj": sizes.d_mlp,
    }  # fmt: skip
    writes = scale / (2 * sizes.layers) ** 0.5  # as GPT-2 is initialised: the stream stays of one size
    for layer in range(sizes.layers):
        block = {name: normal(size, d, scale) for name, size in rows.items()}
        block |= {"self_attn.o_proj": normal(d, d, writes), "mlp.down_proj": normal(d, sizes.d_mlp, writes)}
        block |= {"input_layernorm": ones.clone(), "post_attention_layernorm": ones.clone()}
        yield {f"model.layers.{layer}.{name}.weight": value for name, value in block.items()}


def make(folder: Path, sizes: Sizes) -> int:
    """Writes the checkpoint; its bytes."""
    folder.mkdir()
    write_json(folder / "config.json", sizes.config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY / name, folder / name)
    weight_map: dict[str, str] = {}
    for index, tensors in enumerate(parts(sizes)):
        file = f"model-{index + 1:05d}-of-{sizes.layers + 1:05d}.safetensors"
        save_tensors(folder / file, tensors, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        forget(folder / file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def forget(path: Path) -> None:
    """Puts a file out of the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass
class Run:
    """What `graphprune prune` took: one process, or several after kills.

    Attributes:
        command: what is run.
        limit: bytes that may be resident.
        resident: the most that were, as the kernel says.
        anonymous: the most that were seen of what is not mapped from a file.
        read: bytes from the disk.
        written: bytes to the disk.
        seconds: of all processes.
        seen: digests of the blocks that each process wrote.
    """

    command: list[str]
    limit: float
    resident: float = 0
    anonymous: float = 0
    read: float = 0
    written: float = 0
    seconds: float = 0
    seen: list[dict[str, str]] = field(default_factory=list)

    def go(self, journal: Path, until: Callable[[int], bool] = lambda _: False) -> str:
        """Runs until it has finished, or until it has done so many blocks; what it printed.

        Raises:
            SystemExit: it fails, or takes more memory than it may.
        """
        start, seen = time.perf_counter(), dict[str, str]()
        found = {path.name for path in journal.glob("*/block-*")}
        self.seen.append(seen)
        usage = {"read": 0.0, "written": 0.0}
        with subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                self._look(process, usage)
                for path in sorted(journal.glob("*/block-*")):
                    if path.name not in found and path.name not in seen:
                        seen[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
                if until(len(found) + len(seen)):
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    break
                time.sleep(0.05)
            printed = process.stdout.read() if process.stdout is not None else ""
        self.seconds += time.perf_counter() - start
        self.read, self.written = self.read + usage["read"], self.written + usage["written"]
        if process.returncode not in {0, -signal.SIGKILL}:
            raise SystemExit(f"graphprune ended with {process.returncode}")
        return printed

    def _look(self, process: "subprocess.Popen[str]", usage: dict[str, float]) -> None:
        home = Path("/proc", str(process.pid))
        try:
            status = dict(line.split(":", 1) for line in (home / "status").read_text().splitlines())
            io = dict(line.split(": ") for line in (home / "io").read_text().splitlines())
        except (OSError, ValueError):
            return
        if "VmHWM" not in status:  # it has ended
            return
        self.resident = max(self.resident, 1024 * int(status["VmHWM"].split()[0]))
        self.anonymous = max(self.anonymous, 1024 * int(status["RssAnon"].split()[0]))
        usage |= {"read": int(io["read_bytes"]), "written": int(io["write_bytes"])}
        if self.resident > self.limit:
            process.kill()
            raise SystemExit(f"{self.resident / 1e9:.2f} GB are resident, {self.limit / 1e9:.2f} may be")


def rates(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Bytes a second of the disk, and operations a second of matrix products as large as the model's."""
    shard = min(folder.glob("model-00002-*"))
    forget(shard)
    size, start = shard.stat().st_size, time.perf_counter()
    content = shard.read_bytes()
    read = size / (time.perf_counter() - start)
    with TemporaryDirectory(dir=folder.parent) as other:
        start = time.perf_counter()
        with Path(other, "file").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written = size / (time.perf_counter() - start)
    found = {"read": read, "written": written}
    for dtype, rows in ((torch.bfloat16, 256), (torch.float32, 2048), (torch.float64, 2048)):
        one, other_one = (
            torch.ones(rows, sizes.d_model, dtype=dtype),
            torch.ones(sizes.d_model, sizes.d_mlp, dtype=dtype),
        )
        one @ other_one
        start = time.perf_counter()
        for _ in range(3):
            one @ other_one
        found[str(dtype)] = 3 * 2 * rows * sizes.d_model * sizes.d_mlp / (time.perf_counter() - start)
    return found


def operations(sizes: Sizes, tokens: int) -> dict[str, float]:
    """The least that has to be computed: forward passes, Hessians of what the projections read, and their inverses."""
    widths = (sizes.d_model, sizes.d_mlp)
    return {
        "torch.bfloat16": 2.0 * tokens * sizes.block * sizes.layers,
        "torch.float32": 1.0 * tokens * sum(n**2 for n in widths) * sizes.layers,
        "torch.float64": 1.0 * sum(n**3 for n in widths) * sizes.layers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=12, help="of the checkpoint (default 12)")
    parser.add_argument("--limit", type=float, default=4, help="gigabytes that may be resident (default 4)")
    parser.add_argument("--folder", type=Path, help="where there is room for three times as much (default: temporary)")
    parser.add_argument("--d-model", type=int, default=Sizes.d_model)
    parser.add_argument("--d-mlp", type=int, default=Sizes.d_mlp)
    parser.add_argument("--n-samples", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--whole", action="store_true", help="prune it again without a kill, and compare all of it")
    args = parser.parse_args()
    sizes = Sizes.of(args.gigabytes * 1e9, d_model=args.d_model, d_mlp=args.d_mlp)
    with TemporaryDirectory(dir=args.folder) as home:
        report(args, sizes, Path(home))


def report(args: argparse.Namespace, sizes: Sizes, home: Path) -> None:
    start = time.perf_counter()
    n_bytes = make(home / "dense", sizes)
    print(f"{n_bytes / 1e9:.2f} GB: {sizes.layers} blocks of {sizes.d_model} and {sizes.d_mlp} channels, ", end="")
    print(f"made in {time.perf_counter() - start:.0f} s")
    speed = rates(home / "dense", sizes)

    def command(run: Path) -> list[str]:
        return [
            sys.executable, "-m", "graphprune", "prune", str(home / "dense"), "--method", "slimgpt",
            "--sparsity", "0.2", "--rung", "ragged", "--calibration", str(TINY / "calibration.txt"),
            "--n-samples", str(args.n_samples), "--seq-len", str(args.seq_len), "-o", str(run), "--json",
        ]  # fmt: skip

    run, journal = Run(command(home / "run"), args.limit * 1e9), home / "run" / "blocks"
    run.go(journal, lambda done: done >= sizes.layers // 2 + AGAIN)
    done = sorted(journal.glob("*/block-*"))
    if not done:
        raise SystemExit("it wasn't killed half-way")
    print(f"killed after {run.seconds:.0f} s and {len(done)} blocks; {AGAIN} of them are taken away")
    for path in done[-AGAIN:]:
        path.unlink()
    for path in (home / "dense").glob("*.safetensors"):
        forget(path)
    result = json.loads(run.go(journal))
    first, second = run.seen
    again = {path.name for path in done[-AGAIN:]}
    same = again <= second.keys() and all(first[name] == second[name] for name in again)
    print(f"blocks done before the kill and again after it are {'the same bytes' if same else 'DIFFERENT'}")
    if args.whole:
        whole = json.loads(Run(command(home / "whole"), args.limit * 1e9).go(home / "whole" / "blocks"))
        one, other = Checkpoint(Path(result["checkpoint"])), Checkpoint(Path(whole["checkpoint"]))
        same = same and list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)
        print(f"the checkpoint is {'equal to' if same else 'DIFFERENT from'} that of a run without a kill")
    bound(run, speed, operations(sizes, args.n_samples * args.seq_len), result)
    print(f"peak resident {run.resident / 1e9:.2f} GB, of it anonymous {run.anonymous / 1e9:.2f} GB; ", end="")
    print(f"the limit is {args.limit:g} GB, the checkpoint {n_bytes / 1e9:.2f} GB")
    print(f"pruned, {result['rung']}: {result['checkpoint_bytes'] / 1e9:.2f} GB, ", end="")
    print(f"logits within {result['max_difference']:.1g}")
    if not same:
        raise SystemExit("the resumed result differs")


def bound(run: Run, speed: dict[str, float], needed: dict[str, float], result: dict[str, Any]) -> None:
    """Says what the time is made of, and what it could not be less than."""
    engine = result["engine_seconds"]
    disk = {"read": run.read / speed["read"], "written": run.written / speed["written"]}
    arithmetic = {dtype: count / speed[dtype] for dtype, count in needed.items()}
    print(f"{run.seconds:.0f} s in both processes; ", end="")
    print("after the kill " + ", ".join(f"{name} {value:.0f} s" for name, value in engine.items()))
    print(f"disk: {run.read / 1e9:.1f} GB read at {speed['read'] / 1e9:.2f} GB/s, ", end="")
    print(f"{run.written / 1e9:.1f} GB written at {speed['written'] / 1e9:.2f} GB/s: {sum(disk.values()):.0f} s")
    for dtype, count in needed.items():
        print(f"{dtype}: {count:.2g} operations at {speed[dtype] / 1e9:.0f} GFLOP/s: {arithmetic[dtype]:.0f} s")
    by = "arithmetic" if sum(arithmetic.values()) > sum(disk.values()) else "the disk"
    print(f"the bound is {by}: {max(sum(arithmetic.values()), sum(disk.values())):.0f} s at least")


if __name__ == "__main__":
    main()
