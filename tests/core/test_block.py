"""Every kind of block against the dense matrix that it stands for."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from graphprune.core.block import (
    Block,
    EdgeBlock,
    Kernel,
    MaskedBlock,
    Run,
    StoredBlock,
    UnweightedBlock,
    full_pattern,
    row_pointers,
)

CPU = torch.device("cpu")
SRC, DST = 2, 11  # where the sources and the destinations start
COLUMNS = ((), (1,), (2,), (3,), (5,), (16,), (17,))  # of what is carried; three to fifteen are made sixteen
FEW = ((), (3,))

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def sparse_block(src: Run, dst: Run, dense: torch.Tensor, pattern: torch.Tensor | None = None) -> Block:
    """A block of the entries of a pattern, or of those that aren't zero."""
    rows, columns = (dense != 0 if pattern is None else pattern).nonzero(as_tuple=True)
    crow = torch.cat([torch.zeros(1), torch.bincount(rows, minlength=len(dense)).cumsum(0)]).int()
    return Block(src, dst, dense[rows, columns], crow, columns.int())


def stored(block: Block, folder: Path) -> StoredBlock:
    """The same edges in a file, as a graph folder holds them."""
    path = folder / "blocks.safetensors"
    tensors = {"000000.values": block.values}
    if not block.is_full:
        tensors |= {"000000.crow": block.crow, "000000.col": block.col}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, str(path))
    return StoredBlock(block.src, block.dst, path, "000000", block.n_edges, block.dtype)


# ------------------------------------------------------------------------------------- blocks, and what they should be


@dataclass(frozen=True)
class Case:
    """A block, the matrix (rows are destinations) it stands for, and which entries of it are edges."""

    name: str
    block: EdgeBlock
    dense: torch.Tensor
    pattern: torch.Tensor

    def stored(self, folder: Path) -> "Case":
        assert isinstance(self.block, Block)
        folder.mkdir(exist_ok=True)
        return Case(self.name, stored(self.block, folder), self.dense, self.pattern)

    def masked(self, keep_src: torch.Tensor, keep_dst: torch.Tensor) -> "Case":
        stays = keep_dst[:, None] & keep_src[None, :]
        return Case(self.name, MaskedBlock(self.block, keep_src, keep_dst), self.dense * stays, self.pattern & stays)

    def unweighted(self) -> "Case":
        return Case(self.name, UnweightedBlock(self.block), self.pattern.to(self.dense.dtype), self.pattern)


def some(size: int, seed: int) -> torch.Tensor:
    """A part of some nodes; a single one goes."""
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < (0.6 if size > 1 else 0)


def base(kind: str, dtype: torch.dtype) -> Case:
    """A plain block; weights have both signs."""
    shape = {"no rows": (0, 7), "no columns": (6, 0), "neither": (0, 0), "one edge": (1, 1)}.get(kind, (6, 7))
    generator = torch.Generator().manual_seed(3)
    dense = torch.randn(shape, generator=generator, dtype=dtype)
    src, dst = (SRC, SRC + shape[1]), (DST, DST + shape[0])
    pattern = torch.ones(shape, dtype=torch.bool)
    if kind == "full with zeros":
        dense[1], dense[:, 2], dense[3, 4] = 0, 0, 0
    if kind.startswith("sparse"):
        pattern = torch.rand(shape, generator=generator) < 0.4
        pattern[2], pattern[:, 5] = False, False  # a destination and a source without edges
    if kind == "empty":
        pattern[:] = False
    dense = torch.where(pattern, dense, 0.0)
    if kind == "sparse with zeros":  # edges of weight zero
        dense[pattern.nonzero()[::3].unbind(1)] = 0
    full = kind.startswith("full") or kind in {"one edge", "no rows", "no columns", "neither"}
    block = Block.full(src, dst, dense) if full else sparse_block(src, dst, dense, pattern)
    return Case(f"{kind}, {dtype}", block, dense, pattern)


BASES = ("full", "full with zeros", "sparse", "sparse with zeros", "empty", "one edge", "no rows", "no columns",
         "neither")  # fmt: skip
WRAPPINGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "masked": ("masked",),
    "unweighted": ("unweighted",),
    "masked, then unweighted": ("masked", "unweighted"),
    "unweighted, then masked": ("unweighted", "masked"),
    "masked twice": ("masked", "masked again"),
    "masked to nothing": ("nothing",),
    "masked to everything": ("everything",),
}


def wrapped(case: Case, wrapping: str) -> Case:
    n_dst, n_src = case.dense.shape
    for step in WRAPPINGS[wrapping]:
        match step:
            case "unweighted":
                case = case.unweighted()
            case "nothing":
                case = case.masked(some(n_src, 1), torch.zeros(n_dst, dtype=torch.bool))
            case "everything":
                case = case.masked(torch.ones(n_src, dtype=torch.bool), torch.ones(n_dst, dtype=torch.bool))
            case _:
                seed = 1 if step == "masked" else 5
                case = case.masked(some(n_src, seed), some(n_dst, seed + 1))
    return case


@pytest.fixture(scope="module", params=list(product(WRAPPINGS, ["memory", "disk"])), ids="-".join)
def cases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """One way of wrapping, around every plain block."""
    (wrapping, where), folder = request.param, tmp_path_factory.mktemp("blocks")
    plain = [base(kind, dtype) for kind in BASES for dtype in (torch.float32, torch.float64)]
    held = plain if where == "memory" else [case.stored(folder / f"{i}") for i, case in enumerate(plain)]
    return [wrapped(case, wrapping) for case in held]


def carried(case: Case, axis: int, shapes: tuple[tuple[int, ...], ...] = FEW) -> Iterator[torch.Tensor]:
    """What the sources (axis 1) or the destinations (axis 0) may hold: a vector, and several columns."""
    for columns in shapes:
        generator = torch.Generator().manual_seed(7 + len(columns))
        yield torch.randn(case.dense.shape[axis], *columns, generator=generator, dtype=case.dense.dtype)


def close(*pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    """What was found and what was expected, compared at once: comparisons take longer than such small products."""
    for found, expected in pairs:
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    found, expected = (torch.cat([tensor.reshape(-1) for tensor in side]) for side in zip(*pairs, strict=True))
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------------------------------------------- every kind


def test_says_what_it_is(cases: list[Case]) -> None:
    for case in cases:
        block, (n_dst, n_src) = case.block, case.dense.shape
        assert isinstance(block, EdgeBlock)
        assert (block.src, block.dst) == ((SRC, SRC + n_src), (DST, DST + n_dst))
        assert block.shape == (n_dst, n_src)
        assert block.n_edges == int(case.pattern.sum())
        assert (block.dtype, block.device) == (case.dense.dtype, CPU)


def test_loads_the_edges_of_the_matrix_and_no_others_row_by_row(cases: list[Case]) -> None:
    for case in cases:
        block = case.block.load()
        assert isinstance(block, Block)
        assert (block.src, block.dst) == (case.block.src, case.block.dst)
        edges = torch.stack([block.rows(), block.col.long()], dim=1)
        assert torch.equal(edges, case.pattern.nonzero())  # in order of rows, then columns
        assert torch.equal(block.values, case.dense[case.pattern])
        assert block.crow.dtype == block.col.dtype == torch.int32
        assert block.is_full == (bool(case.pattern.all()) and case.pattern.numel() > 0)
        if block.n_edges:
            assert torch.equal(block.csr.to_dense(), case.dense)
        if block.is_full:
            assert torch.equal(block.matrix, case.dense)


def test_push_is_the_matrix_times_what_the_sources_hold(cases: list[Case]) -> None:
    for case in cases:
        close(*((case.block.push(x), case.dense @ x) for x in carried(case, 1, COLUMNS)))


def test_pull_is_the_transposed_matrix_times_what_the_destinations_hold(cases: list[Case]) -> None:
    for case in cases:
        close(*((case.block.pull(y), case.dense.T @ y) for y in carried(case, 0, COLUMNS)))


def test_pull_on_other_devices_is_the_one_here(cases: list[Case]) -> None:
    for case in cases:
        block = case.block.load()
        close(*((block.scattered(y), case.dense.T @ y) for y in carried(case, 0)))


def test_sent_and_received_are_column_and_row_sums(cases: list[Case]) -> None:
    for case in cases:
        close((case.block.sent(), case.dense.sum(dim=0)), (case.block.received(), case.dense.sum(dim=1)))


def test_takes_vectors_that_are_views_and_leaves_them_alone(cases: list[Case]) -> None:
    """Columns of a transposed matrix, and one number for all: neither is contiguous."""
    for case in cases:
        n_dst, n_src = case.dense.shape
        held = torch.arange(4.0 * (n_src + n_dst), dtype=case.dense.dtype).view(4, -1).T
        before = held.clone()
        x, y = held[:n_src], held[n_src:]
        for columns in (slice(None), 1, slice(2, None)):
            close(
                (case.block.push(x[:, columns]), case.dense @ x[:, columns]),
                (case.block.pull(y[:, columns]), case.dense.T @ y[:, columns]),
            )
        twos = x.new_full((1,), 2.0)
        close(
            (case.block.push(twos.expand(n_src)), 2 * case.dense.sum(dim=1)),
            (case.block.pull(twos.expand(n_dst)), 2 * case.dense.sum(dim=0)),
        )
        assert torch.equal(held, before)


def plus_times(*, backward: bool) -> Kernel:
    """``W @ x`` (backward: ``W.T @ y``), edge by edge."""

    def kernel(block: Block, x: torch.Tensor) -> torch.Tensor:
        ends = (block.col.long(), block.rows())
        senders, receivers = ends[::-1] if backward else ends
        weights = block.values if x.ndim == 1 else block.values[:, None]
        size = block.shape[1] if backward else block.shape[0]
        return x.new_zeros((size, *x.shape[1:])).index_add_(0, receivers, weights * x[senders])

    return kernel


def min_plus(*, backward: bool) -> Kernel:
    """The least of edge plus what its sender holds; infinity where no edge arrives."""

    def kernel(block: Block, x: torch.Tensor) -> torch.Tensor:
        ends = (block.col.long(), block.rows())
        senders, receivers = ends[::-1] if backward else ends
        weights = block.values if x.ndim == 1 else block.values[:, None]
        size = block.shape[1] if backward else block.shape[0]
        result = x.new_full((size, *x.shape[1:]), math.inf)
        np.minimum.at(result.numpy(), receivers.numpy(), (weights + x[senders]).numpy())
        return result

    return kernel


def least(lengths: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The dense answer: ``min_j lengths[i, j] + x[j]``, infinity if there is no ``j``."""
    through = lengths.view(*lengths.shape, *[1] * (x.ndim - 1)) + x[None]
    nothing = x.new_full((len(lengths), 1, *x.shape[1:]), math.inf)
    found: torch.Tensor = torch.cat([through, nothing], dim=1).amin(dim=1)
    return found


@pytest.mark.parametrize("backward", [False, True])
def test_applies_a_sum_of_products_as_the_matrix_does(cases: list[Case], backward: bool) -> None:
    for case in cases:
        dense = case.dense.T if backward else case.dense
        apply = partial(case.block.apply, plus_times(backward=backward), empty=0.0, backward=backward)
        close(*((apply(x), dense @ x) for x in carried(case, 0 if backward else 1)))


@pytest.mark.parametrize("backward", [False, True])
def test_applies_a_minimum_of_sums_as_the_matrix_does(cases: list[Case], backward: bool) -> None:
    for case in cases:
        lengths = torch.where(case.pattern, case.dense, math.inf)
        lengths = lengths.T if backward else lengths
        apply = partial(case.block.apply, min_plus(backward=backward), empty=math.inf, backward=backward)
        close(*((apply(x), least(lengths, x)) for x in carried(case, 0 if backward else 1)))


def test_stays_the_same_when_it_is_moved(cases: list[Case]) -> None:
    for case in cases:
        moved = case.block.to("cpu")
        assert type(moved) is type(case.block)
        assert (moved.device, moved.n_edges) == (CPU, case.block.n_edges)
        assert torch.equal(moved.load().values, case.dense[case.pattern])
        x = next(carried(case, 1))
        assert torch.equal(moved.push(x), case.block.push(x))


# --------------------------------------------------------------------------------------------------------- properties

WRAP: dict[str, Callable[[Case, torch.Tensor, torch.Tensor], Case]] = {
    "plain": lambda case, _, __: case,
    "masked": lambda case, src, dst: case.masked(src, dst),
    "unweighted": lambda case, _, __: case.unweighted(),
    "masked, then unweighted": lambda case, src, dst: case.masked(src, dst).unweighted(),
    "unweighted, then masked": lambda case, src, dst: case.unweighted().masked(src, dst),
}
whole = st.integers(-3, 3)
truth = st.booleans()


@st.composite
def small_blocks(draw: st.DrawFn) -> tuple[list[list[int]], list[list[bool]] | None, list[bool], list[bool]]:
    """Weights, which of them are edges (all of them if not given), and which sources and destinations stay."""
    n_dst, n_src = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    weights = draw(st.lists(st.lists(whole, min_size=n_src, max_size=n_src), min_size=n_dst, max_size=n_dst))
    edges = st.lists(st.lists(truth, min_size=n_src, max_size=n_src), min_size=n_dst, max_size=n_dst)
    pattern = draw(st.none() | edges)
    keep_src = draw(st.lists(truth, min_size=n_src, max_size=n_src))
    return weights, pattern, keep_src, draw(st.lists(truth, min_size=n_dst, max_size=n_dst))


@pytest.mark.parametrize("wrapping", WRAP)
@given(drawn=small_blocks(), on_disk=truth, columns=st.sampled_from(COLUMNS), seed=st.integers(0, 99))
def test_what_is_pushed_meets_what_is_pulled(
    wrapping: str, drawn: Any, on_disk: bool, columns: tuple[int, ...], seed: int
) -> None:
    """``<W x, y> = <x, W^T y>``, exactly: all numbers are whole."""
    weights, edges, keep_src, keep_dst = drawn
    shape = (len(keep_dst), len(keep_src))
    dense = torch.tensor(weights, dtype=torch.float64).view(shape)
    pattern = (
        torch.ones(shape, dtype=torch.bool) if edges is None else torch.tensor(edges, dtype=torch.bool).view(shape)
    )
    dense = dense * pattern
    src, dst = (0, shape[1]), (shape[1], sum(shape))
    block = Block.full(src, dst, dense) if edges is None else sparse_block(src, dst, dense, pattern)
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(-9, 9, (n, *columns), generator=generator).double() for n in shape[::-1])
    masks = (torch.tensor(keep_src, dtype=torch.bool), torch.tensor(keep_dst, dtype=torch.bool))
    with TemporaryDirectory() as folder:
        plain = Case("drawn", block, dense, pattern)
        case = WRAP[wrapping](plain.stored(Path(folder)) if on_disk else plain, *masks)
        pushed, pulled = case.block.push(x), case.block.pull(y)
        assert torch.equal(pushed, case.dense @ x)
        assert torch.equal(pulled, case.dense.T @ y)
        assert float((pushed * y).sum()) == float((x * pulled).sum())
        assert case.block.n_edges == int(case.pattern.sum())
        assert torch.equal(case.block.load().scattered(y), pulled)


# ----------------------------------------------------------------------------------------------------- blocks in memory


def test_full_blocks_keep_zeros_and_share_their_index_arrays() -> None:
    weights = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    block = Block.full((0, 2), (2, 5), weights)
    assert (block.n_edges, block.is_full, block.shape) == (6, True, (3, 2))
    assert torch.equal(block.csr.to_dense(), weights)
    crow, col = full_pattern(3, 2, CPU)
    assert block.crow is crow
    assert block.col is col
    assert crow.dtype == col.dtype == torch.int32


@every_dtype
@pytest.mark.parametrize("kind", ["full", "sparse", "one edge"])
@pytest.mark.parametrize("limit", [0, 1 << 40])
def test_large_and_small_blocks_are_multiplied_alike(
    kind: str, dtype: torch.dtype, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another library does it from some size on."""
    monkeypatch.setattr("graphprune.core.block.DENSE_BELOW", limit)
    monkeypatch.setattr("graphprune.core.block.ALONE_BELOW", limit)
    case = base(kind, dtype)
    close(*((case.block.push(x), case.dense @ x) for x in carried(case, 1, COLUMNS)))
    close(*((case.block.pull(y), case.dense.T @ y) for y in carried(case, 0, COLUMNS)))


def test_matrix_and_csr_copy_nothing() -> None:
    weights = torch.rand(3, 2)
    block = Block.full((0, 2), (2, 5), weights)
    for same in (block.matrix, block.csr.values(), block.load().values):
        assert same.data_ptr() == weights.data_ptr()


@given(st.lists(st.integers(0, 5), max_size=12))
def test_row_pointers_say_where_each_row_starts(rows: list[int]) -> None:
    pointers = row_pointers(torch.tensor(sorted(rows), dtype=torch.int64), 6)
    assert pointers.dtype == torch.int32
    assert pointers.tolist() == [sum(row < i for row in rows) for i in range(7)]


def test_some_nodes_of_a_block_are_a_copy() -> None:
    block = Block.full((0, 3), (3, 5), torch.arange(6.0).view(2, 3))
    part = block.within(torch.tensor([True, False, True]), torch.tensor([False, True]))
    assert part.csr.to_dense().tolist() == [[0, 0, 0], [3, 0, 5]]
    assert part.n_edges == 2
    part.values.zero_()
    assert torch.equal(block.values, torch.arange(6.0))


# --------------------------------------------------------------------------------------------- blocks that wrap others


def test_wrapping_copies_no_edge() -> None:
    whole_block = base("full", torch.float32).block
    masked = MaskedBlock(whole_block, some(7, 1), some(6, 2))
    assert masked.whole is whole_block
    assert UnweightedBlock(masked).whole is masked


def test_a_masked_block_neither_reads_nor_gives_what_removed_nodes_hold() -> None:
    """Also if it is no number: a weight of zero would let that through."""
    case = base("full", torch.float64).masked(some(7, 1), some(6, 2))
    assert isinstance(case.block, MaskedBlock)
    x, y = torch.ones(7, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    x[~case.block.keep_src], y[~case.block.keep_dst] = math.nan, math.inf
    assert torch.equal(case.block.push(x), case.block.received())
    assert torch.equal(case.block.pull(y), case.block.sent())
    assert not case.block.push(x)[~case.block.keep_dst].any()
    assert not case.block.pull(y)[~case.block.keep_src].any()
    kept = case.block.apply(
        lambda block, held: block.push(held) + 1, x, 0.0
    )  # removed ones hold nothing, whatever comes
    assert not kept[~case.block.keep_dst].any()
    assert bool(kept[case.block.keep_dst].all())


def test_the_edges_of_a_masked_full_block_are_counted_without_being_read() -> None:
    missing = StoredBlock((0, 3), (3, 7), Path("nowhere"), "000000", 12, torch.float32)
    masked = MaskedBlock(missing, torch.tensor([True, False, True]), torch.tensor([True, True, False, True]))
    assert masked.n_edges == 6
    assert UnweightedBlock(masked).n_edges == 6


@every_dtype
def test_edges_of_weight_zero_count_as_one_when_unweighted(dtype: torch.dtype) -> None:
    zero = sparse_block((0, 2), (2, 4), torch.zeros(2, 2, dtype=dtype), torch.tensor([[True, False], [True, True]]))
    counted = UnweightedBlock(zero)
    assert counted.load().csr.to_dense().tolist() == [[1, 0], [1, 1]]
    assert counted.received().tolist() == [1, 2]
    assert counted.sent().tolist() == [2, 1]
    assert not zero.values.any()
