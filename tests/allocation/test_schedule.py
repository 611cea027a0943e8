"""Sparsities by depth: the published numbers, the order, exact sums."""

import math
from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.allocation import Allocation, Target, allocate
from graphprune.allocation.schedule import GROWTHS, counts_of_weights
from graphprune.core.errors import InputError
from graphprune.masks.items import Pieces

LAYERS = 32
every_schedule = pytest.mark.parametrize("name", [*GROWTHS])
every_rising_schedule = pytest.mark.parametrize("name", ["log", "linear"])


def neurons(n_layers: int, size: int, *, floor: int = 0) -> tuple[Pieces, ...]:
    """Layers of neurons that cost one each."""
    left = size - floor
    return tuple(
        Pieces(f"neuron.{i}", i, 1, 0.0, torch.zeros(left), torch.arange(left)[:, None], size) for i in range(n_layers)
    )


def counts(name: str, sparsity: float, n_layers: int, size: int, *, first: float = 0.0625, floor: int = 0) -> list[int]:
    """How many neurons go from every layer."""
    pieces = neurons(n_layers, size, floor=floor)
    made: Allocation = allocate(name, pieces, Target(sparsity, n_layers * size, first=first))
    assert made.name == name
    return [made.remove.get(part.group, 0) for part in pieces]


def matrices(n_layers: int, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"model.layers.{i}.mlp.up_proj.weight": (rows, columns) for i in range(n_layers)}


def growth(name: str, layer: int, n_layers: int) -> float:
    return {"uniform": 1.0, "log": math.log(layer + 1) / math.log(n_layers), "linear": layer / (n_layers - 1)}[name]


# The logarithmic schedule of SlimGPT


@pytest.mark.parametrize(
    ("first", "sparsity", "last"),
    [(0.0625, 0.25, 0.3175), (0.0625, 0.33, 0.426), (0.0625, 0.5, 0.657), (0.0, 0.2, 0.272), (0.0, 0.5, 0.680)],
)
def test_the_published_shares_of_the_last_of_32_layers(first: float, sparsity: float, last: float) -> None:
    size = 300
    found = counts("log", sparsity, LAYERS, size, first=first)
    assert sum(found) == round(sparsity * LAYERS * size)
    assert found[0] / size == pytest.approx(first, abs=1.5 / size)
    assert found[-1] / size == pytest.approx(last, abs=5e-4 + 1.5 / size)
    expected = [first + (last - first) * growth("log", i, LAYERS) for i in range(LAYERS)]
    assert [count / size for count in found] == pytest.approx(expected, abs=5e-4 + 1.5 / size)
    of_weights = counts_of_weights("log", matrices(LAYERS, 300, 700), Target(sparsity, 1, first=first))
    shares = [count / 210_000 for count in of_weights.values()]
    assert shares[0] == pytest.approx(first, abs=1e-5)
    assert shares[-1] == pytest.approx(last, abs=5e-4)
    assert shares == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("n_layers", [12, 24, 26])
def test_the_logarithm_is_of_the_number_of_layers_that_there_are(n_layers: int) -> None:
    """The authors' code divides by the logarithm of 32 whatever the depth."""
    published = {12: 0.670, 24: 0.718, 26: 0.723}[n_layers]
    shares = [c / 10_000 for c in counts_of_weights("log", matrices(n_layers, 100, 100), Target(0.2, 1)).values()]
    assert (sum(shares) / n_layers - shares[0]) / (shares[-1] - shares[0]) == pytest.approx(published, abs=2e-3)


# Both that rise with depth


@every_rising_schedule
def test_up_to_the_first_layers_share_every_layer_loses_the_same(name: str) -> None:
    for sparsity in (0.01, 0.03, 0.0625):
        assert counts(name, sparsity, 7, 160) == counts("uniform", sparsity, 7, 160)
        target = Target(sparsity, 1)
        assert counts_of_weights(name, matrices(7, 40, 50), target) == counts_of_weights(
            "uniform", matrices(7, 40, 50), target
        )
    assert counts(name, 0.1, 7, 160) != counts("uniform", 0.1, 7, 160)


@every_rising_schedule
@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.5, 0.8])
def test_later_layers_lose_at_least_as_much(name: str, sparsity: float) -> None:
    by_neuron = counts(name, sparsity, 9, 200)
    assert all(later >= earlier - 1 for earlier, later in pairwise(by_neuron))
    assert by_neuron[-1] > by_neuron[0] + 10
    by_weight = list(counts_of_weights(name, matrices(9, 60, 70), Target(sparsity, 1)).values())
    assert all(later >= earlier - 1 for earlier, later in pairwise(by_weight))
    assert by_weight[-1] > by_weight[0] + 100


def test_linear_rises_by_the_same_from_layer_to_layer() -> None:
    size, first, sparsity = 1000, 0.05, 0.3
    last = first + 2 * (sparsity - first)  # the mean of a straight line is its middle
    expected = [first + (last - first) * i / 8 for i in range(9)]
    assert [c / size for c in counts("linear", sparsity, 9, size, first=first)] == pytest.approx(expected, abs=1.5e-3)
    by_weight = counts_of_weights("linear", matrices(9, 100, 100), Target(sparsity, 1, first=first))
    assert [c / 10_000 for c in by_weight.values()] == pytest.approx(expected, abs=2e-4)


@every_schedule
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 1.0])
def test_a_single_layer_loses_it_all(name: str, sparsity: float) -> None:
    assert counts(name, sparsity, 1, 90) == [round(sparsity * 90)]
    assert list(counts_of_weights(name, matrices(1, 9, 10), Target(sparsity, 1)).values()) == [round(sparsity * 90)]


@every_schedule
@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.0, 0.0625, 0.3]))
def test_what_goes_at_a_sparsity_goes_at_a_higher_one_too(name: str, a: float, b: float, first: float) -> None:
    less, more = (counts(name, s, 6, 23, first=first) for s in sorted((a, b)))
    assert all(x <= y for x, y in zip(less, more, strict=True))


@every_schedule
@given(st.floats(0, 1), st.floats(0, 1))
def test_single_weights_are_nested_as_well_to_within_a_rounded_one(name: str, a: float, b: float) -> None:
    less, more = (list(counts_of_weights(name, matrices(6, 7, 9), Target(s, 1)).values()) for s in sorted((a, b)))
    assert all(x <= y + 1 for x, y in zip(less, more, strict=True))


@every_schedule
@pytest.mark.parametrize("sparsity", [0.9, 0.95])
def test_the_budget_is_exact_where_layers_have_no_more_to_give(name: str, sparsity: float) -> None:
    found = counts(name, sparsity, 8, 120, floor=1)
    assert sum(found) == round(sparsity * 960)
    assert max(found) <= 119
    if name != "uniform":
        assert found[0 if name.endswith("_reversed") else -1] == 119
    by_weight = list(counts_of_weights(name, matrices(8, 30, 40), Target(sparsity, 1)).values())
    assert sum(by_weight) == round(sparsity * 9600)
    assert max(by_weight) <= 1200
    if name != "uniform":
        assert by_weight[0 if name.endswith("_reversed") else -1] == 1200


def test_the_first_layer_gives_its_share_before_the_others_give_their_last() -> None:
    """Under `log` the first layer stands still at its share while any other has pieces left."""
    found = counts("log", 0.9, 4, 100)
    assert found[0] == pytest.approx(60, abs=1)  # the other three are empty
    assert found[1:] == [100, 100, 100]
    assert counts("log", 0.5, 4, 100)[0] == pytest.approx(6, abs=1)


@pytest.mark.parametrize("name", ["log", "linear"])
@pytest.mark.parametrize("sparsity", [0.05, 0.2, 0.5, 0.97])
def test_a_reversed_schedule_is_the_same_from_the_other_end(name: str, sparsity: float) -> None:
    found, turned = (counts(each, sparsity, 9, 200) for each in (name, f"{name}_reversed"))
    assert sum(found) == sum(turned)
    assert turned[::-1] == pytest.approx(found, abs=1)
    assert (turned[0] > turned[-1] + 10) == (sparsity > 0.1)
    by_weight = [*counts_of_weights(f"{name}_reversed", matrices(9, 60, 70), Target(sparsity, 1)).values()]
    forward = [*counts_of_weights(name, matrices(9, 60, 70), Target(sparsity, 1)).values()]
    assert by_weight[::-1] == pytest.approx(forward, abs=1)


# Single weights of matrices of several shapes

shapes = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=12).map(
    lambda rows: {f"model.layers.{layer}.w{i}.weight": (a, b) for i, (layer, a, b) in enumerate(sorted(rows))}
)


@every_schedule
@given(shapes, st.floats(0, 1), st.floats(0, 1))
def test_no_matrix_loses_more_weights_than_it_has_whatever_the_shapes(
    name: str, named: dict[str, tuple[int, ...]], sparsity: float, first: float
) -> None:
    found = counts_of_weights(name, named, Target(sparsity, 1, first=first))
    assert found.keys() == named.keys()
    assert all(0 <= found[key] <= prod(shape) for key, shape in named.items())


@given(shapes, st.floats(0, 1))
def test_uniform_is_exact_in_total_whatever_the_shapes(named: dict[str, tuple[int, ...]], sparsity: float) -> None:
    found = counts_of_weights("uniform", named, Target(sparsity, 1))
    total = sum(prod(shape) for shape in named.values())
    assert abs(sum(found.values()) - sparsity * total) <= 0.5 + 1e-6
    assert all(abs(found[key] - sparsity * prod(shape)) <= 1 + 1e-6 for key, shape in named.items())


@every_rising_schedule
@given(st.integers(1, 8), st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=7),
       st.floats(0, 1))  # fmt: skip
def test_schedules_are_exact_in_total_over_layers_of_one_shape(
    name: str, n_layers: int, layer: list[tuple[int, int]], sparsity: float
) -> None:
    named = {f"model.layers.{i}.w{j}.weight": shape for i in range(n_layers) for j, shape in enumerate(layer)}
    total = n_layers * sum(a * b for a, b in layer)
    found = counts_of_weights(name, named, Target(sparsity, 1))
    assert abs(sum(found.values()) - sparsity * total) <= 0.5 + 1e-6


def test_all_matrices_of_a_layer_lose_its_share() -> None:
    named = {f"model.layers.{i}.{part}.weight": (20, 30) for i in range(5) for part in ("q", "k", "up")}
    found = counts_of_weights("log", named, Target(0.4, 1))
    for i in range(5):
        of_layer = [found[f"model.layers.{i}.{part}.weight"] for part in ("q", "k", "up")]
        assert max(of_layer) - min(of_layer) <= 1
    assert found["model.layers.4.q.weight"] > found["model.layers.0.q.weight"] + 100


@pytest.mark.parametrize("first", [-0.1, 1.5, 2.0])
def test_a_first_share_out_of_range_is_refused(first: float) -> None:
    with pytest.raises(InputError, match="first layer"):
        Target(0.5, 1, first=first)


def test_every_schedule_has_a_growth() -> None:
    expected = {name: growth(name, 3, 8) for name in ("uniform", "log", "linear")}
    expected |= {f"{name}_reversed": growth(name, 4, 8) for name in ("log", "linear")}
    assert {name: grow(3, 8) for name, grow in GROWTHS.items()} == pytest.approx(expected)


# FLAP's comparison of layers


def test_standardised_scores_are_the_z_scores_of_each_layer() -> None:
    """FLAP subtracts a layer's mean and divides by its standard deviation before it looks for one threshold."""
    rows = [[1.0, 2.0, 3.0, 6.0], [10.0, 11.0, 12.0, 40.0], [0.0, 0.5, 0.6, 0.7]]
    # by hand: means 3, 18.25, 0.45; population deviations 1.8708, 12.5773, 0.2693
    # z: -1.069 -0.535 0 1.604 | -0.656 -0.576 -0.497 1.729 | -1.671 0.186 0.557 0.928
    order = [(2, 0), (0, 0), (1, 0), (1, 1), (0, 1), (1, 2), (0, 2), (2, 1), (2, 2), (2, 3), (0, 3), (1, 3)]
    pieces = tuple(
        Pieces(f"neuron.{i}", i, 1, sum(row) / 4, torch.tensor(row, dtype=torch.float64), torch.arange(4)[:, None], 4,
               float(torch.tensor(row, dtype=torch.float64).std(correction=0)))
        for i, row in enumerate(rows)
    )  # fmt: skip
    for n in range(13):
        found = allocate("global", pieces, Target(n / 12, 12, normalise="standard")).remove
        expected = [sum(layer == i for layer, _ in order[:n]) for i in range(3)]
        assert [found.get(f"neuron.{i}", 0) for i in range(3)] == expected, n
    by_mean = allocate("global", pieces, Target(5 / 12, 12, normalise="layer")).remove
    assert by_mean == {"neuron.0": 1, "neuron.1": 3, "neuron.2": 1}  # by z-score 2, 2 and 1


def test_a_layer_of_equal_scores_stands_at_its_mean_when_standardised() -> None:
    flat = Pieces("neuron.0", 0, 1, 5.0, torch.full((3,), 5.0), torch.arange(3)[:, None], 3, 0.0)
    spread = Pieces("neuron.1", 1, 1, 2.0, torch.tensor([1.0, 2.5, 2.5]), torch.arange(3)[:, None], 3, 0.7071)
    found = allocate("global", (flat, spread), Target(4 / 6, 6, normalise="standard")).remove
    assert found == {"neuron.1": 1, "neuron.0": 3}
