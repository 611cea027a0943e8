"""Training what pruning left: low-rank changes of every linear layer of the blocks, merged back into the weights.

1. `targets`: the stock modules that get a LoRA pair (Hu et al. 2021), through PEFT.
2. `_kept_to`: where a weight is exactly zero the change is zero as well, in training and in what is merged, so that a
   mask, a pattern or padding is what it was.
3. `recovered`: trains with the Trainer of transformers, from its last checkpoint if it has one, and merges.

Math: ``W' = W + [W != 0] * (alpha / rank) B A``; A and B alone are trained, on the next token of every window.
"""

import copy
import json
import random
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch.func import functional_call

from graphprune.core.errors import InputError
from graphprune.core.progress import progress
from graphprune.models.model import Model
from graphprune.solvers.sequential import Overlaid

ADAPTER = "default"


@dataclass(frozen=True)
class Recovery:
    """How a pruned model is trained.

    Attributes:
        steps: of the optimiser; by default as many as read every window once.
        minutes: stop after so many, wherever that is; a started step is finished.
        batch_size: windows a step.
        learning_rate: at first; it falls along a cosine to zero at the last step.
        rank: of the changes.
        alpha: their scale times the rank.
        warmup: steps in which the rate rises.
        save_every: steps between checkpoints, from which a killed run goes on.
        seed: of the changes' first values and the order of windows.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 8
    learning_rate: float = 1e-4
    rank: int = 8
    alpha: float = 16.0
    warmup: int = 10
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "rank", "save_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name.replace('_', ' ')} is at least 1, not {value}")
        for name in ("minutes", "learning_rate", "alpha"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise InputError(f"{name.replace('_', ' ')} is above 0, not {value:g}")
        if self.warmup < 0 or self.seed < 0:
            raise InputError(f"warm-up steps and seed are at least 0, not {min(self.warmup, self.seed)}")


@dataclass(frozen=True)
class Recovered:
    """What training made.

    Attributes:
        model: the same model with the changed weights.
        curve: mean training loss, in nats a token, up to and including a step.
        steps: how many were taken.
        stopped: whether time was up before the last.
    """

    model: Model
    curve: tuple[tuple[int, float], ...]
    steps: int
    stopped: bool


def targets(model: Model) -> dict[str, list[str]]:
    """By stock module, the weights of the blocks that lie in it."""
    decoder = model.decoder
    found: dict[str, list[str]] = {}
    for name in model.shapes:
        if decoder.layer_of(name) is not None and name.endswith("_proj.weight"):
            found.setdefault(model.naming.parameter(name)[0].removesuffix(".weight"), []).append(name)
    return found


def recovered(
    model: Model, rows: Int[torch.Tensor, "windows seq_len"], options: Recovery, folder: Path, *, device: str = "cpu"
) -> Recovered:
    """The model after training on windows of text.

    Args:
        model: what is trained; its own tensors stay as they are.
        rows: token ids.
        options: how.
        folder: where the Trainer keeps its checkpoints; if it has one, training goes on there.
        device: `cpu`, or `auto` for the accelerator that the Trainer finds.

    Raises:
        InputError: PEFT isn't installed, or the model is a perceptron.
        ModelError: a token is unknown to the model.
    """
    peft = installed()
    model.check_tokens(rows)
    modules = targets(model)
    network: Any = model.module(dtype=torch.float32)
    network = network if model.folder is not None else copy.deepcopy(network)  # it may share the model's tensors
    network.requires_grad_(requires_grad=False)
    zeros = {name: network.get_submodule(name).weight == 0 for name in modules}
    with _randomness_put_back():
        from transformers import Trainer, set_seed

        set_seed(options.seed)
        settings = peft.LoraConfig(
            r=options.rank, lora_alpha=options.alpha, lora_dropout=0.0, target_modules=list(modules), bias="none",
            task_type="CAUSAL_LM", fan_in_fan_out=model.decoder.model_type == "gpt2",
        )  # fmt: skip
        adapted = adapted_by(settings, network)
        for name, gone in zeros.items():
            if bool(gone.any()):
                _kept_to(adapted.base_model.model.get_submodule(name), ~gone)
        steps = options.steps or -(-len(rows) // options.batch_size)
        timer = _timer(options, steps)
        trainer = Trainer(
            model=adapted,
            args=_arguments(options, steps, folder, device, bf16=model.preferred_dtype() == torch.bfloat16),
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            callbacks=[timer],
        )
        _mute(trainer)
        trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
        merged = adapted.merge_and_unload()
    state, history = dict(merged.named_parameters()), trainer.state
    changed: dict[str, Shaped[torch.Tensor, "..."]] = {}
    for module, names in modules.items():
        weight = state[f"{module}.weight"].detach().cpu()
        weight = weight.masked_fill(zeros[module], 0.0)
        for name in names:
            changed[name] = model.naming.parameter(name)[1].read(weight).to(model.parameters[name].dtype)
    curve = tuple((int(entry["step"]), float(entry["loss"])) for entry in history.log_history if "loss" in entry)
    taken = int(history.global_step)
    made = replace(model, parameters=Overlaid(model.parameters, changed))
    return Recovered(made, curve, taken, taken < steps)


def installed() -> Any:
    """The `peft` module.

    Raises:
        InputError: it isn't installed.
    """
    try:
        import peft
    except ImportError:
        raise InputError("PEFT is not installed; `pip install graphprune[recover]` installs it") from None
    return peft


def adapted_by(settings: Any, network: Any) -> Any:
    """The network with low-rank changes beside its linear layers."""
    with warnings.catch_warnings():  # PEFT asks for it by its old name
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapted = installed().get_peft_model(network, settings)
    adapted.peft_config[ADAPTER].base_model_name_or_path = ""  # what has a name is looked for on the hub
    return adapted


def _kept_to(layer: Any, keep: torch.Tensor) -> None:
    """Computes with a change that is zero where the weight is."""
    base = layer.base_layer

    def forward(x: torch.Tensor, *_: Any, **__: Any) -> Any:
        where = keep.to(base.weight.device)
        return functional_call(
            base, {"weight": base.weight + where * layer.get_delta_weight(ADAPTER)}, (x,), strict=False
        )

    layer.forward = forward


def _arguments(options: Recovery, steps: int, folder: Path, device: str, *, bf16: bool) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate, lr_scheduler_type="cosine", warmup_steps=min(options.warmup, steps - 1),
        weight_decay=0.0, logging_steps=max(1, steps // 50), save_strategy="steps", save_steps=options.save_every,
        save_total_limit=2, report_to=[], disable_tqdm=True, use_cpu=device == "cpu", seed=options.seed,
        dataloader_pin_memory=False, optim="adamw_torch", bf16=bf16,
    )  # fmt: skip


def _timer(options: Recovery, steps: int) -> Any:
    """What stops the Trainer when time is up, and shows how far it is."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, _: Any, state: Any, __: Any, **___: Any) -> None:
            self.start = time.monotonic()
            self.bar = progress(range(0), "training", total=steps, unit="step")
            self.bar.update(state.global_step)

        def on_step_end(self, _: Any, __: Any, control: Any, **___: Any) -> None:
            self.bar.update(1)
            if options.minutes is not None and time.monotonic() - self.start > 60 * options.minutes:
                control.should_training_stop = control.should_save = True

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.bar.close()

    return Timer()


def _mute(trainer: Any) -> None:
    """The Trainer prints its log to where results go."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written to its end; others are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            json.loads((path / "trainer_state.json").read_bytes())  # it is written last
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


@contextmanager
def _randomness_put_back() -> Iterator[None]:
    """The Trainer and PEFT draw from the generators that everybody shares."""
    ours, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - those are what they seed
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(arrays)  # noqa: NPY002
