"""Train the shipped `tiny` model, a Llama-architecture model of 1.7 million parameters; nothing is fetched.

1. `collect` and `split` (corpus.py): prose from the documentation of graphprune's dependencies, in three parts.
2. `train_tokenizer`: a byte-level BPE learnt from the training part.
3. `new_model` and `train_model`: AdamW, cosine schedule; `calibration` serves for watching the loss,
   `evaluation` is looked at once, at the end.
4. `save`: fp16 safetensors, the tokenizer and the two texts.

Run `python -m graphprune.models.tiny.train`: about 20 minutes on two CPU cores. The texts and the tokenizer come out
the same again; the weights do up to the rounding of the machine's arithmetic.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graphprune.models.tiny.corpus import Corpus, Document, collect, split

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 2048
CONTEXT, BATCH, WINDOW = 256, 8, 128
PEAK_LR, WEIGHT_DECAY, WARM_UP = 4e-3, 0.1, 200
SEED = 20_231
N_STEPS = 4200


def train_tokenizer(documents: Sequence[Document]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer learnt from the documents; it adds no token of its own accord."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((d.text for d in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, model_max_length=2 * CONTEXT
    )


def new_model(end_of_text: int) -> LlamaForCausalLM:
    """Return an untrained model whose weights depend on `SEED` alone."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=2 * CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_of_text,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are overwritten below
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(SEED)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            continue  # norms stay at one
        std = 0.02 if "embed" in name else weight.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # two writes to the residual stream a layer
            std /= math.sqrt(2 * config.num_hidden_layers)
        nn.init.normal_(weight, std=std, generator=generator)
    return model


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Return one stream of ids, an end-of-text token after every text but the last."""
    encoded = tokenizer(list(texts), verbose=False)["input_ids"]
    stream = [i for ids in encoded for i in (*ids, tokenizer.eos_token_id)]
    return torch.tensor(stream[:-1])


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, ids: Tensor) -> float:
    """Return exp of the mean loss of a token over windows of `WINDOW` tokens that don't overlap."""
    windows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    losses = [model(input_ids=chunk, labels=chunk).loss.item() * len(chunk) for chunk in torch.split(windows, 32)]
    return math.exp(sum(losses) / len(windows))


def unigram_perplexity(train: Tensor, ids: Tensor) -> float:
    """Return the perplexity of the training part's token frequencies, the baseline to beat."""
    counts = torch.bincount(train, minlength=VOCAB_SIZE).double() + 1
    return math.exp(-float((counts / counts.sum()).log()[ids].mean()))


def learning_rate(step: int, n_steps: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine down to zero."""
    warm_up = min(1.0, (step + 1) / WARM_UP)
    return PEAK_LR * warm_up * (1 + math.cos(math.pi * step / n_steps)) / 2


def train_model(model: LlamaForCausalLM, train: Tensor, calibration: Tensor, *, n_steps: int) -> None:
    """Train in place, in float32: bfloat16 autocast was measured to be slower on CPUs (by up to a fifth)."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(SEED)
    offsets = torch.arange(CONTEXT)
    mean_loss = 0.0
    progress = tqdm(range(n_steps), desc="train", unit="step", mininterval=10)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps)
        starts = torch.randint(len(train) - CONTEXT, (BATCH, 1), generator=generator)
        batch = train[starts + offsets]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean_loss += (loss.item() - mean_loss) / min(step + 1, 100)
        if (step + 1) % 500 == 0:
            seen = (step + 1) * BATCH * CONTEXT / len(train)
            progress.write(
                f"step {step + 1}, epoch {seen:.1f}: perplexity {math.exp(mean_loss):.2f} on the training part, "
                f"{perplexity(model, calibration):.2f} on calibration.txt",
                file=sys.stderr,
            )


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, to: Path) -> None:
    """Write the model (fp16), its tokenizer and the two texts."""
    (to / "calibration.txt").write_text(corpus.calibration, encoding="utf-8")
    (to / "evaluation.txt").write_text(corpus.evaluation, encoding="utf-8")
    tokenizer.save_pretrained(to)
    model.half().save_pretrained(to)
    (to / "model.safetensors").chmod(0o644)  # safetensors writes files for the owner only


def main() -> None:
    """Run the four steps and print how well the saved model predicts `evaluation.txt`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=N_STEPS, metavar="N", help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, metavar="DIR", help="default: this folder")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, not {arguments.steps}")
    arguments.to.mkdir(parents=True, exist_ok=True)  # before the work, in case it can't be

    corpus = split(collect())
    tokenizer = train_tokenizer(corpus.train)
    train = token_ids(tokenizer, [d.text for d in corpus.train])
    calibration, evaluation = (token_ids(tokenizer, [text]) for text in (corpus.calibration, corpus.evaluation))
    model = new_model(tokenizer.eos_token_id)
    train_model(model, train, calibration, n_steps=arguments.steps)
    save(model, tokenizer, corpus, arguments.to)

    saved = LlamaForCausalLM.from_pretrained(arguments.to, dtype=torch.float32)
    n_chars = sum(len(d.text) for d in corpus.train)
    print(f"training part: {n_chars} characters, {len(train)} tokens; {saved.num_parameters()} parameters")
    print(f"perplexity of evaluation.txt: {perplexity(saved, evaluation):.3f}")
    print(f"perplexity of token frequencies alone: {unigram_perplexity(train, evaluation):.1f}")


if __name__ == "__main__":
    main()
