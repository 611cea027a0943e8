"""A store that no kill, no damage and no foreign pair can spoil."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from graphprune.core.errors import FormatError, GraphpruneError
from graphprune.prediction.architecture import Architecture
from graphprune.prediction.pairs import Origin, Pair, PairStore, PairWarning

ORIGIN = Origin("model", "method", "text")


def pair(count: int, quality: float = 20.0) -> Pair:
    return Pair(Architecture({"neuron.0": count}), {"perplexity.text": quality}, {"text": (2.5, 3.5)}, False, 1.25)


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    return PairStore(tmp_path / "pairs" / "wanda.jsonl", ORIGIN)


def test_what_is_appended_is_read_again(store: PairStore) -> None:
    assert store.pairs() == {}
    pairs = [pair(1), replace(pair(2), stopped=True), replace(pair(3), quality={})]
    for each in pairs:
        store.append(each)
    assert list(store.pairs().values()) == pairs


def test_an_architecture_is_kept_once_and_the_first_time_counts(store: PairStore) -> None:
    same = Architecture({"neuron.1": 0, "neuron.0": 1})
    store.append(pair(1, 20.0))
    store.append(replace(pair(1, 30.0), architecture=same))
    (only,) = store.pairs().values()
    assert only.quality == {"perplexity.text": 20.0}


def test_a_half_written_last_line_is_skipped_with_a_warning_and_the_next_pair_is_whole(store: PairStore) -> None:
    for count in (1, 2):
        store.append(pair(count))
    whole = store.path.read_bytes()
    for length in (1, 40, len(whole) // 2 - 2):  # of the second line
        store.path.write_bytes(whole[: len(whole) // 2 + length])
        with pytest.warns(PairWarning, match="line 2 of .*wanda.jsonl can't be read"):
            assert list(store.pairs().values()) == [pair(1)]
        store.append(pair(3))
        with pytest.warns(PairWarning, match="line 2"):
            assert list(store.pairs().values()) == [pair(1), pair(3)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda facts: facts | {"remove": {"neuron.0": 5}},  # not what the key says
        lambda facts: facts | {"remove": {"neuron.0": -1}},
        lambda facts: facts | {"remove": {"neuron.0": True}},
        lambda facts: facts | {"quality": {"perplexity.text": float("nan")}},
        lambda facts: facts | {"quality": {"perplexity.text": "20"}},
        lambda facts: facts | {"losses": {"text": [float("inf")]}},
        lambda facts: facts | {"format": "something.else"},
        lambda facts: {name: value for name, value in facts.items() if name != "origin"},
        lambda facts: facts | {"origin": ["model"]},
        lambda facts: [facts],
    ],
)
def test_a_corrupt_line_is_reported_and_skipped_and_the_others_are_read(store: PairStore, damage: object) -> None:
    for count in (1, 2, 3):
        store.append(pair(count))
    lines = store.path.read_text().splitlines()
    assert callable(damage)
    lines[1] = json.dumps(damage(json.loads(lines[1])))
    store.path.write_text("\n".join([*lines, ""]))
    with pytest.warns(PairWarning, match="line 2"):
        assert list(store.pairs().values()) == [pair(1), pair(3)]


def test_bytes_that_are_no_text_are_skipped_too(store: PairStore) -> None:
    store.append(pair(1))
    store.path.write_bytes(b"\xff\xfe\x00\n" + store.path.read_bytes())
    with pytest.warns(PairWarning, match="line 1"):
        assert list(store.pairs().values()) == [pair(1)]


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        (Origin("other", "method", "text"), "another model"),
        (Origin("model", "other", "text"), "another way of pruning"),
        (Origin("model", "method", "other"), "other texts"),
    ],
)
def test_pairs_of_something_else_are_refused(store: PairStore, origin: Origin, what: str) -> None:
    store.append(pair(1))
    with pytest.raises(FormatError, match=what):
        PairStore(store.path, origin).pairs()


def test_a_newer_version_is_refused(store: PairStore) -> None:
    store.append(pair(1))
    store.path.write_text(store.path.read_text().replace('"version":1', '"version":2'))
    with pytest.raises(FormatError, match="version 2"):
        store.pairs()


def test_a_number_that_is_not_finite_is_never_written(store: PairStore) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.append(pair(1, float("nan")))
    assert not store.path.exists()


def test_a_place_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("a file")
    with pytest.raises(GraphpruneError, match="cannot write"):
        PairStore(tmp_path / "pairs" / "wanda.jsonl", ORIGIN).append(pair(1))


WRITER = """
import sys
from pathlib import Path
from tests.prediction.test_pairs import ORIGIN, pair
from graphprune.prediction.pairs import PairStore
store, count = PairStore(Path(sys.argv[1]), ORIGIN), 0
while True:
    count += 1
    store.append(pair(count))
    print(count, flush=True)
"""


def test_a_killed_writer_loses_no_pair_that_it_said_it_had_written(store: PairStore) -> None:
    root = Path(__file__).parents[2]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.path)], stdout=subprocess.PIPE, text=True, cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    said += [int(line) for line in writer.stdout.read().splitlines() if line]
    writer.stdout.close()
    writer.wait()
    kept = [each.architecture.remove["neuron.0"] for each in store.pairs().values()]
    assert kept[: len(said)] == said
    assert len(kept) <= len(said) + 1
