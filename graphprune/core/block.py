"""Edges between two runs of nodes, as one sparse matrix: in memory, on disk, masked, or counted instead of weighed.

All of them are an `EdgeBlock`. Only `Block` holds tensors; the others wrap one and change what is seen of it, so that a
masked or an unweighted graph copies no edge, and a graph on disk is read block by block.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int

from graphprune.core.errors import FormatError
from graphprune.core.io import opened_tensors

if TYPE_CHECKING:
    from scipy import sparse

CPU = torch.device("cpu")
DENSE_BELOW = 1 << 20  # edges: up to here one thread reads a full block as fast as two
ALONE_BELOW = 1 << 15  # edges of a sparse block for which waking other threads costs more than it saves
Run = tuple[int, int]  # the first node, and the one after the last
Kernel = Callable[["Block", torch.Tensor], torch.Tensor]

with warnings.catch_warnings():  # torch announces once per process that sparse CSR is in beta: get it over with
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))


@lru_cache(maxsize=32)
def full_pattern(rows: int, columns: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The index arrays (int32) of a CSR matrix in which every entry is stored; shared by all blocks of one shape."""
    crow = torch.arange(rows + 1, dtype=torch.int32, device=device) * columns
    return crow, torch.arange(columns, dtype=torch.int32, device=device).repeat(rows)


def row_pointers(rows: Int[torch.Tensor, " edges"], n_rows: int) -> Int[torch.Tensor, " n_rows_plus_one"]:
    """The CSR row pointers (int32) of edges sorted by row."""
    pointers = torch.zeros(n_rows + 1, dtype=torch.int32, device=rows.device)
    pointers[1:] = torch.bincount(rows, minlength=n_rows).cumsum(0)
    return pointers


@runtime_checkable  # the shape checker asks
class EdgeBlock(Protocol):
    """Edges from nodes ``src`` (first, one past last) to nodes ``dst``: a matrix of shape (dst, src)."""

    @property
    def src(self) -> Run: ...

    @property
    def dst(self) -> Run: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def n_edges(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def load(self) -> "Block":
        """The edges as tensors in memory, for as long as the caller keeps them."""
        ...

    def apply(self, kernel: Kernel, x: torch.Tensor, empty: float, *, backward: bool = False) -> torch.Tensor:
        """``kernel`` on what the sources (backward: the destinations) hold, to what arrives at the others.

        ``empty`` is what a node holds that isn't there: 0 for sums, infinity for minima.
        """
        ...

    def push(self, x: torch.Tensor) -> torch.Tensor:
        """``W @ x``: what arrives at the destinations when the sources hold ``x``."""
        ...

    def pull(self, y: torch.Tensor) -> torch.Tensor:
        """``W.T @ y``: the sweep against the edges."""
        ...

    def sent(self) -> torch.Tensor:
        """The sum of the weights that leave each source."""
        ...

    def received(self) -> torch.Tensor:
        """The sum of the weights that reach each destination."""
        ...

    def to(self, device: torch.device | str) -> "EdgeBlock": ...


@dataclass(frozen=True)
class Block:
    """Edges as a CSR matrix in memory (or memory-mapped), with the weights as ``values``.

    Rows are destinations, as in a weight matrix, so that ``push`` is an ordinary sparse product.
    """

    src: Run
    dst: Run
    values: Float[torch.Tensor, " edges"]
    crow: Int[torch.Tensor, " rows_plus_one"]
    col: Int[torch.Tensor, " edges"]

    @classmethod
    def full(cls, src: Run, dst: Run, weights: Float[torch.Tensor, "dst src"]) -> "Block":
        """Every entry of a matrix (rows are destinations), zeros included."""
        crow, col = full_pattern(dst[1] - dst[0], src[1] - src[0], weights.device)
        return cls(src, dst, weights.reshape(-1), crow, col)

    @cached_property
    def shape(self) -> tuple[int, int]:
        return self.dst[1] - self.dst[0], self.src[1] - self.src[0]

    @cached_property
    def n_edges(self) -> int:
        return self.values.numel()

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @cached_property
    def is_full(self) -> bool:
        """Whether every possible edge is stored, so that the values are a dense matrix in row order."""
        return 0 < self.n_edges == self.shape[0] * self.shape[1]

    @cached_property
    def matrix(self) -> Float[torch.Tensor, "dst src"]:
        """A full block as the dense matrix it is; nothing is copied."""
        return self.values.view(self.shape)

    @cached_property
    def csr(self) -> torch.Tensor:
        """The block as a torch sparse CSR tensor of shape (dst, src); nothing is copied."""
        return torch.sparse_csr_tensor(self.crow, self.col, self.values, size=self.shape)

    @cached_property
    def _scipy(self) -> "tuple[sparse.csr_array, sparse.csc_array]":
        """The matrix and its transpose as SciPy's; nothing is copied."""
        from scipy import sparse

        arrays = (self.values.numpy(), self.col.numpy(), self.crow.numpy())
        matrix = sparse.csr_array(arrays, shape=self.shape)
        return matrix, matrix.T

    def rows(self) -> Int[torch.Tensor, " edges"]:
        """The row (destination within the block) of every stored edge."""
        counts = self.crow.diff()
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)

    def load(self) -> "Block":
        return self

    def apply(
        self,
        kernel: Kernel,
        x: Float[torch.Tensor, " n *k"],
        empty: float,  # noqa: ARG002 - every node of the block is there
        *,
        backward: bool = False,  # noqa: ARG002 - the kernel knows its direction
    ) -> Float[torch.Tensor, " m *k"]:
        return kernel(self, x)

    def push(self, x: Float[torch.Tensor, " src *k"]) -> Float[torch.Tensor, " dst *k"]:
        """``W @ x``. Bound by memory bandwidth.

        A full block is read as the dense matrix it is. Only a large one on CPU and for one column goes through MKL's
        sparse product, which has all threads read it where the dense one has one. A small sparse one is SciPy's work.
        """
        if self.n_edges == 0:
            return x.new_zeros((self.shape[0], *x.shape[1:]))
        if self.is_full and (x.ndim > 1 or self.n_edges < DENSE_BELOW or x.device.type != "cpu"):
            return _product(self.matrix, x)
        if x.device.type == "cpu" and self.n_edges < ALONE_BELOW:
            return torch.from_numpy(self._scipy[0] @ x.numpy())
        return self.csr @ x

    def pull(self, y: Float[torch.Tensor, " dst *k"]) -> Float[torch.Tensor, " src *k"]:
        """``W.T @ y``.

        torch's transposed CSR product is a hundred times slower than its plain one on CPU, so a full block is
        read as the dense matrix it is and any other as SciPy's CSC, both without a copy.
        """
        if self.n_edges == 0:
            return y.new_zeros((self.shape[1], *y.shape[1:]))
        if self.is_full:
            return _product(self.matrix.t(), y)
        if y.device.type == "cpu":
            return torch.from_numpy(self._scipy[1] @ y.numpy())
        return self.scattered(y)

    def scattered(self, y: Float[torch.Tensor, " dst *k"]) -> Float[torch.Tensor, " src *k"]:
        """``W.T @ y`` edge by edge, on devices that add atomically."""
        weights = self.values if y.ndim == 1 else self.values[:, None]
        return y.new_zeros((self.shape[1], *y.shape[1:])).index_add_(0, self.col, weights * y[self.rows()])

    def sent(self) -> Float[torch.Tensor, " src"]:
        return self.matrix.sum(dim=0) if self.is_full else self.pull(self.values.new_ones(self.shape[0]))

    def received(self) -> Float[torch.Tensor, " dst"]:
        return self.matrix.sum(dim=1) if self.is_full else self.push(self.values.new_ones(self.shape[1]))

    def to(self, device: torch.device | str) -> "Block":
        if self.is_full:  # the index arrays are shared by all blocks of a shape, there as here
            return Block.full(self.src, self.dst, self.matrix.to(device))
        return replace(self, values=self.values.to(device), crow=self.crow.to(device), col=self.col.to(device))

    def within(self, src: Bool[torch.Tensor, " src"], dst: Bool[torch.Tensor, " dst"]) -> "Block":
        """The edges between some of the nodes, as of `selected`."""
        return self.selected(dst[self.rows()] & src[self.col])

    def selected(self, keep: Bool[torch.Tensor, " edges"]) -> "Block":
        """Some of the edges, as a copy; the block itself if all of them stay."""
        if bool(keep.all()):
            return self
        before = self.crow.new_zeros(self.n_edges + 1)  # how many of the edges before each stay
        torch.cumsum(keep, 0, dtype=before.dtype, out=before[1:])
        return replace(self, values=self.values[keep], col=self.col[keep], crow=before[self.crow])


def _product(matrix: Float[torch.Tensor, "m n"], x: Float[torch.Tensor, " n *k"]) -> Float[torch.Tensor, " m *k"]:
    """``matrix @ x``. Sixteen columns take half the time of eight, so a few are made sixteen."""
    k = x.shape[1] if x.ndim == 2 else 1
    if not 2 < k < 16:
        return matrix @ x
    return (matrix @ torch.nn.functional.pad(x, (0, 16 - k)))[:, :k]


def check_pointers(path: Path, n_rows: int, n_edges: int, crow: torch.Tensor, col: torch.Tensor) -> None:
    """Checks that index arrays are of the length they should be: products don't look.

    Raises:
        FormatError: they aren't.
    """
    fits = len(crow) == n_rows + 1 and len(col) == n_edges and int(crow[0]) == 0 and int(crow[-1]) == n_edges
    if not fits:
        raise misfit(path)


def misfit(path: Path) -> FormatError:
    """What is wrong with a file whose index arrays are of another length than they should be."""
    return FormatError(f"{path} is damaged: the index arrays of a block don't fit its edges")


@dataclass(frozen=True)
class StoredBlock:
    """A block in a safetensors file. It is mapped when it is used and let go of afterwards.

    Attributes:
        src, dst: the nodes.
        path: the file.
        key: names of its tensors in there: ``KEY.values`` and, unless every edge is stored, ``KEY.crow``, ``KEY.col``.
        n_edges: how many edges.
        dtype: of the weights.
        device: where the edges are taken to.
    """

    src: Run
    dst: Run
    path: Path
    key: str
    n_edges: int
    dtype: torch.dtype
    device: torch.device = CPU

    @property
    def shape(self) -> tuple[int, int]:
        return self.dst[1] - self.dst[0], self.src[1] - self.src[0]

    def load(self) -> Block:
        """The edges, memory-mapped.

        Raises:
            FormatError: the file has been damaged or replaced since the graph was opened.
        """
        with opened_tensors(self.path) as file:
            values = file.get_tensor(f"{self.key}.values")
            if values.numel() != self.n_edges or values.dtype != self.dtype:
                raise FormatError(f"{self.path} has changed while its graph was in use")
            if self.n_edges == self.shape[0] * self.shape[1]:
                return Block.full(self.src, self.dst, values.view(self.shape).to(self.device))
            crow, col = file.get_tensor(f"{self.key}.crow"), file.get_tensor(f"{self.key}.col")
        check_pointers(self.path, self.shape[0], self.n_edges, crow, col)
        return Block(self.src, self.dst, values, crow, col).to(self.device)

    def apply(
        self,
        kernel: Kernel,
        x: Float[torch.Tensor, " n *k"],
        empty: float,
        *,
        backward: bool = False,
    ) -> Float[torch.Tensor, " m *k"]:
        return self.load().apply(kernel, x, empty, backward=backward)

    def push(self, x: Float[torch.Tensor, " src *k"]) -> Float[torch.Tensor, " dst *k"]:
        return self.load().push(x)

    def pull(self, y: Float[torch.Tensor, " dst *k"]) -> Float[torch.Tensor, " src *k"]:
        return self.load().pull(y)

    def sent(self) -> Float[torch.Tensor, " src"]:
        return self.load().sent()

    def received(self) -> Float[torch.Tensor, " dst"]:
        return self.load().received()

    def to(self, device: torch.device | str) -> "StoredBlock":
        return replace(self, device=torch.device(device))


@dataclass(frozen=True)
class _View(ABC):
    """What a block that changes how another is seen has of it."""

    whole: EdgeBlock

    @property
    def src(self) -> Run:
        return self.whole.src

    @property
    def dst(self) -> Run:
        return self.whole.dst

    @property
    def shape(self) -> tuple[int, int]:
        return self.whole.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    @property
    def device(self) -> torch.device:
        return self.whole.device

    @abstractmethod
    def push(self, x: Float[torch.Tensor, " src *k"]) -> Float[torch.Tensor, " dst *k"]: ...

    @abstractmethod
    def pull(self, y: Float[torch.Tensor, " dst *k"]) -> Float[torch.Tensor, " src *k"]: ...

    def sent(self) -> Float[torch.Tensor, " src"]:
        return self.pull(torch.ones(self.shape[0], dtype=self.dtype, device=self.device))

    def received(self) -> Float[torch.Tensor, " dst"]:
        return self.push(torch.ones(self.shape[1], dtype=self.dtype, device=self.device))


@dataclass(frozen=True)
class MaskedBlock(_View):
    """A block of which only the edges between nodes that stay are seen; nothing of it is copied."""

    keep_src: Bool[torch.Tensor, " src"]
    keep_dst: Bool[torch.Tensor, " dst"]

    @cached_property
    def n_edges(self) -> int:
        if self.whole.n_edges == self.shape[0] * self.shape[1]:
            return int(self.keep_src.sum()) * int(self.keep_dst.sum())
        return self.load().n_edges

    def load(self) -> Block:
        return self.whole.load().within(self.keep_src, self.keep_dst)

    def apply(
        self,
        kernel: Kernel,
        x: Float[torch.Tensor, " n *k"],
        empty: float,
        *,
        backward: bool = False,
    ) -> Float[torch.Tensor, " m *k"]:
        return self._between(lambda held: self.whole.apply(kernel, held, empty, backward=backward), x, empty, backward)

    def push(self, x: Float[torch.Tensor, " src *k"]) -> Float[torch.Tensor, " dst *k"]:
        return self._between(self.whole.push, x, 0.0, backward=False)

    def pull(self, y: Float[torch.Tensor, " dst *k"]) -> Float[torch.Tensor, " src *k"]:
        return self._between(self.whole.pull, y, 0.0, backward=True)

    def _between(
        self, carry: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, empty: float, backward: bool
    ) -> torch.Tensor:
        """What ``carry`` brings from the nodes that stay to the nodes that stay."""
        senders, receivers = (self.keep_dst, self.keep_src) if backward else (self.keep_src, self.keep_dst)
        return _only(receivers, carry(_only(senders, x, empty)), empty)

    def to(self, device: torch.device | str) -> "MaskedBlock":
        return MaskedBlock(self.whole.to(device), self.keep_src.to(device), self.keep_dst.to(device))


def _only(keep: Bool[torch.Tensor, " n"], x: Float[torch.Tensor, " n *k"], empty: float) -> torch.Tensor:
    """``x`` at the nodes that stay, ``empty`` at the others."""
    return torch.where(keep if x.ndim == 1 else keep[:, None], x, empty)


@dataclass(frozen=True)
class UnweightedBlock(_View):
    """A block every edge of which counts the same, also those of weight zero."""

    @property
    def n_edges(self) -> int:
        return self.whole.n_edges

    def load(self) -> Block:
        return _counted(self.whole.load())

    def apply(
        self,
        kernel: Kernel,
        x: Float[torch.Tensor, " n *k"],
        empty: float,
        *,
        backward: bool = False,
    ) -> Float[torch.Tensor, " m *k"]:
        return self.whole.apply(lambda block, held: kernel(_counted(block), held), x, empty, backward=backward)

    def push(self, x: Float[torch.Tensor, " src *k"]) -> Float[torch.Tensor, " dst *k"]:
        return self.whole.apply(_push_counts, x, 0.0)

    def pull(self, y: Float[torch.Tensor, " dst *k"]) -> Float[torch.Tensor, " src *k"]:
        return self.whole.apply(_pull_counts, y, 0.0, backward=True)

    def to(self, device: torch.device | str) -> "UnweightedBlock":
        return UnweightedBlock(self.whole.to(device))


def _counted(block: Block) -> Block:
    return replace(block, values=torch.ones_like(block.values))


def _push_counts(block: Block, x: torch.Tensor) -> torch.Tensor:
    if block.is_full:  # every destination gets the same, and no edge need be read
        return x.sum(dim=0, keepdim=True).expand(block.shape[0], *x.shape[1:])
    return _counted(block).push(x)


def _pull_counts(block: Block, y: torch.Tensor) -> torch.Tensor:
    if block.is_full:
        return y.sum(dim=0, keepdim=True).expand(block.shape[1], *y.shape[1:])
    return _counted(block).pull(y)
