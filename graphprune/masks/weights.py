"""Which single weights of a matrix stay, by their scores: exactly as many as asked for, ties by lower id."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int

from graphprune.core.pattern import Pattern

Comparison = Literal["matrix", "row"]
CHUNK = 1 << 24  # weights that are compared at a time, where they are compared in groups


def keep_highest(
    scores: Float[torch.Tensor, "rows columns"], n_removed: int, *, per: Comparison
) -> Bool[torch.Tensor, "rows columns"]:
    """Everything but the ``n_removed`` weights of the lowest scores; of equal ones the lower id goes first.

    Args:
        scores: higher = keep; infinite ones are allowed.
        n_removed: of the whole matrix.
        per: which weights are compared: all of the `matrix`, or those of a `row`, that is of one output, as Wanda does.
            Every row then loses equally many or one more. Those that lose more are spread over the rows by the van der
            Corput sequence, so masks are nested in ``n_removed``.

    Cost: linear; up to 20 bytes a weight of the matrix, of `CHUNK` weights by row.

    Raises:
        ValueError: a score is NaN, there are fewer weights than shall go, or ``per`` is unknown.
    """
    _check_scores(scores)
    if not 0 <= n_removed <= scores.numel():
        raise ValueError(f"{n_removed} of {scores.numel()} weights can't be removed")
    if per == "matrix":
        return ~_lowest(scores.reshape(1, -1), n_removed).view(scores.shape)
    if per != "row":
        raise ValueError(f"weights are compared per matrix or row, not {per!r}")
    each, more = divmod(n_removed, max(len(scores), 1))
    gone = _lowest(scores, each)
    rows = _spread(len(scores), scores.device)[:more]
    gone[rows] = _lowest(scores[rows], each + 1)
    return ~gone


def keep_pattern(scores: Float[torch.Tensor, "rows columns"], pattern: Pattern) -> Bool[torch.Tensor, "rows columns"]:
    """The highest ``pattern.stay`` of every ``pattern.of`` neighbours of a row; of equal ones the lower id goes first.

    Raises:
        InputError: the rows don't fall into whole groups.
        ValueError: a score is NaN.
    """
    _check_scores(scores)
    pattern.check(scores.shape[1], "the matrix")
    return ~_lowest(scores.reshape(-1, pattern.of), pattern.of - pattern.stay).view(scores.shape)


def _check_scores(scores: torch.Tensor) -> None:
    if bool(scores.isnan().any()):
        raise ValueError("a score is NaN")


def _lowest(scores: Float[torch.Tensor, "groups size"], count: int) -> Bool[torch.Tensor, "groups size"]:
    """The ``count`` lowest of each group, ties by lower id.

    The count-th lowest is selected, nothing is sorted: all below it go, and of its equals as many as are missing.
    """
    if count == 0 or scores.numel() == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    gone = torch.empty_like(scores, dtype=torch.bool)
    step = max(1, CHUNK // scores.shape[1])
    for start in range(0, len(scores), step):
        part = scores[start : start + step]
        threshold = part.kthvalue(count, dim=1, keepdim=True).values
        below, tied = part < threshold, part == threshold
        missing = count - below.sum(dim=1, keepdim=True)
        gone[start : start + step] = below | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= missing))
    return gone


def _spread(n: int, device: torch.device) -> Int[torch.Tensor, " n"]:
    """The numbers below ``n`` in an order of which every start is spread evenly: by their bits, mirrored."""
    ids = torch.arange(n, device=device)
    mirrored = torch.zeros_like(ids)
    for bit in range(max(n - 1, 0).bit_length()):
        mirrored = mirrored * 2 + (ids >> bit & 1)
    return mirrored.argsort(stable=True)
