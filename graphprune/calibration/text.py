"""Text as windows of tokens."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int

from graphprune.core.errors import InputError


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it isn't there, is empty, or isn't UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"the text {path} is not there") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the text {path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"the text {path} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise InputError(f"the text {path} is empty")
    return text


def windows(tokenizer: Any, text: str, seq_len: int, *, needed: int = 1) -> Int[torch.Tensor, "windows seq_len"]:
    """All non-overlapping windows of a text, in order; a remainder at the end is dropped.

    Where the tokenizer starts every text with a beginning-of-sequence token, so does every window.

    Raises:
        InputError: the text has fewer than ``needed`` windows; the message says how many it has.
    """
    if seq_len < 2:
        raise ValueError(f"a window needs at least 2 tokens, not {seq_len}")
    tokenizer.model_max_length = int(1e30)  # the text is cut here, so its length is no cause for a warning
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    start = tokenizer("a")["input_ids"][:1]
    with_bos = tokenizer.bos_token_id is not None and start == [tokenizer.bos_token_id]
    length = seq_len - 1 if with_bos else seq_len
    count = len(ids) // length
    if count < needed:
        hint = f"use fewer samples (at most {count}) or shorter windows" if count else "use shorter windows"
        raise InputError(
            f"the text is too short: {needed} windows of {seq_len} tokens need {needed * length} tokens, "
            f"it has {len(ids)}; {hint}"
        )
    cut = ids[: count * length].view(count, length)
    return torch.cat([torch.full((count, 1), tokenizer.bos_token_id), cut], dim=1) if with_bos else cut


def sampled(rows: Int[torch.Tensor, "windows seq_len"], n: int, seed: int) -> Int[torch.Tensor, "n seq_len"]:
    """``n`` different windows drawn with a seed, in order of the text."""
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:n]
    return rows[chosen.sort().values]


def left_over(rows: Int[torch.Tensor, "windows seq_len"], n: int, seed: int) -> Int[torch.Tensor, "left seq_len"]:
    """The windows that `sampled` doesn't draw."""
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[n:]
    return rows[chosen.sort().values]


def spread(rows: Int[torch.Tensor, "windows seq_len"], n: int | None) -> Int[torch.Tensor, "n seq_len"]:
    """``n`` windows spread evenly over the text, or all of them."""
    if n is None or n >= len(rows):
        return rows
    return rows[torch.arange(n) * len(rows) // n]
