"""Statistics against a direct computation, and what text becomes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune import CalibrationStats, Model, calibrate
from graphprune.calibration.forward import site_sizes, sites
from graphprune.calibration.text import read_text, sampled, spread, windows
from graphprune.core.errors import FormatError, InputError, ModelError
from graphprune.core.io import load_tensors
from graphprune.models.data import read_examples
from tests import families

# Statistics


class Recorder:
    """Everything that goes into and comes out of every module of a network, token by token, in float64."""

    def __init__(self, network: Any) -> None:
        self.inputs: dict[str, list[torch.Tensor]] = {}
        self.outputs: dict[str, list[torch.Tensor]] = {}
        self.network = network
        if network.config.model_type in families.RENAMED:
            parts = {name.rpartition(".")[0] for name in families.names_of(network)}
            blocks = {f"model.layers.{layer}" for layer in range(2)}
            named = [(name, families.module_of(network, name)) for name in (*parts, *blocks, "model.norm")]
        else:
            named = list(network.named_modules())
        for name, module in named:
            module.register_forward_hook(self._keep(name), with_kwargs=True)

    def _keep(self, name: str) -> Any:
        def hook(_: Any, arguments: Any, keywords: Any, output: Any) -> None:
            first = arguments[0] if arguments else keywords.get("hidden_states")
            if name.endswith("_proj"):
                output = families.part_of(self.network, name, output)
            for store, x in ((self.inputs, first), (self.outputs, output[0] if isinstance(output, tuple) else output)):
                if isinstance(x, torch.Tensor) and x.is_floating_point():
                    store.setdefault(name, []).append(x.detach().double().reshape(-1, x.shape[-1]))

        return hook

    def sums(self, name: str) -> torch.Tensor:
        return torch.cat(self.inputs[name]).sum(dim=0)

    def squares(self, store: dict[str, list[torch.Tensor]], name: str, size: int | None = None) -> torch.Tensor:
        seen = torch.cat(store[name])
        return seen.reshape(-1, size or seen.shape[-1]).square().sum(dim=0)


FORMS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in families.MODEL_TYPES]
FORMS.append(("gpt_neox", {"use_parallel_residual": False}))


def expected_sites(name: str, settings: dict[str, Any], rows: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Each site's sums of squares, measured on the Hugging Face model by what a site is said to be."""
    network: Any = families.causal_lm(name, **settings)
    seen = Recorder(network)
    with torch.no_grad():
        network(rows)
    sandwich = name.startswith("gemma")
    for layer in range(2):
        home = f"model.layers.{layer}"
        attention, mlp = f"{home}.self_attn", f"{home}.mlp"
        before_mlp = f"{home}.pre_feedforward_layernorm" if sandwich else f"{home}.post_attention_layernorm"
        before_mlp = mlp if name == "olmo2" else before_mlp
        yield f"resid.{2 * layer}", seen.squares(seen.inputs, home)
        if name != "gpt_neox" or settings:  # its MLP reads what enters the block
            yield f"resid.{2 * layer + 1}", seen.squares(seen.inputs, before_mlp)
        if name == "olmo2":  # it normalises what a sub-block gives, not what it reads
            yield f"attn_in.{layer}", seen.squares(seen.inputs, home)
            yield f"mlp_in.{layer}", seen.squares(seen.inputs, mlp)
        else:
            yield f"attn_in.{layer}", seen.squares(seen.outputs, f"{home}.input_layernorm")
            yield f"mlp_in.{layer}", seen.squares(seen.outputs, before_mlp)
        for site, letter in (("query", "q"), ("key", "k")):
            projected = seen.squares(seen.outputs, f"{attention}.{letter}_proj")
            if name in {"qwen3", "gemma3_text", "olmo2"}:
                yield f"{site}_raw.{layer}", projected
                yield f"{site}.{layer}", seen.squares(seen.outputs, f"{attention}.{letter}_norm", len(projected))
            else:
                yield f"{site}.{layer}", projected
        yield f"value.{layer}", seen.squares(seen.outputs, f"{attention}.v_proj")
        yield f"attn.{layer}", seen.squares(seen.inputs, f"{attention}.o_proj")
        yield f"attn_out.{layer}", seen.squares(seen.outputs, f"{attention}.o_proj")
        if name in families.GATED:
            yield f"gate.{layer}", seen.squares(seen.outputs, f"{mlp}.gate_proj")
        yield f"up.{layer}", seen.squares(seen.outputs, f"{mlp}.up_proj")
        yield f"neuron.{layer}", seen.squares(seen.inputs, f"{mlp}.down_proj")
        yield f"mlp_out.{layer}", seen.squares(seen.outputs, f"{mlp}.down_proj")
    yield "resid.4", seen.squares(seen.inputs, "model.norm")


@pytest.mark.parametrize(("name", "settings"), FORMS)
def test_statistics_equal_a_direct_computation(name: str, settings: dict[str, Any]) -> None:
    rows = families.token_ids(5, 12)
    stats = calibrate(families.decoder(name, **settings), rows)
    expected = dict(expected_sites(name, settings, rows))
    assert stats.squares.keys() == expected.keys()
    assert stats.n_tokens == 60
    for site, values in expected.items():
        assert stats.squares[site].dtype == torch.float64
        torch.testing.assert_close(stats.squares[site], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", families.MODEL_TYPES)
def test_the_outputs_of_units_have_sums_means_and_variances_as_well(name: str) -> None:
    rows = families.token_ids(5, 12)
    stats = calibrate(families.decoder(name), rows)
    network: Any = families.causal_lm(name)
    seen = Recorder(network)
    with torch.no_grad():
        network(rows)
    read = {f"attn.{i}": f"model.layers.{i}.self_attn.o_proj" for i in range(2)}
    read |= {f"neuron.{i}": f"model.layers.{i}.mlp.down_proj" for i in range(2)}
    assert stats.sums.keys() == read.keys()
    for site, module in read.items():
        X = torch.cat(seen.inputs[module])
        assert stats.sums[site].dtype == torch.float64
        torch.testing.assert_close(stats.sums[site], seen.sums(module), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats.mean(site), X.mean(dim=0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats.variance(site), X.var(dim=0, correction=0), rtol=1e-5, atol=1e-5)


def test_a_variance_is_never_below_zero() -> None:
    total = torch.full((1,), 3.0 * 7, dtype=torch.float64)
    stats = CalibrationStats({"neuron.0": total * 3 - 1e-9}, 7, sums={"neuron.0": total})
    assert stats.variance("neuron.0").tolist() == [0.0]


def test_the_stream_before_the_first_block_is_the_embedding() -> None:
    model, rows = families.decoder("llama"), families.token_ids(5, 12)
    embedded = model.parameters["model.embed_tokens.weight"].double()[rows].reshape(-1, 16)
    torch.testing.assert_close(calibrate(model, rows).squares["resid.0"], embedded.square().sum(dim=0))


def test_statistics_of_a_perceptron_equal_a_direct_computation() -> None:
    model = families.perceptron()
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    stats = calibrate(model, x)
    expected, y = {"input.0": x}, x
    for layer in range(3):
        y = y @ model.parameters[f"layers.{layer}.weight"].T + model.parameters[f"layers.{layer}.bias"]
        expected[f"pre.{layer}"] = y
        y = y.relu() if layer < 2 else y
        expected["output.2" if layer == 2 else f"neuron.{layer}"] = y
    assert stats.squares.keys() == expected.keys()
    for site, values in expected.items():
        torch.testing.assert_close(stats.squares[site], values.double().square().sum(dim=0), rtol=1e-5, atol=1e-6)
    assert stats.sums.keys() == {"neuron.0", "neuron.1"}
    for site, values in stats.sums.items():
        torch.testing.assert_close(values, expected[site].double().sum(dim=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stats.norm("input.0"), torch.linalg.vector_norm(x.double(), dim=0))
    torch.testing.assert_close(stats.rms("input.0"), x.double().square().mean(dim=0).sqrt())


def assert_same(a: CalibrationStats, b: CalibrationStats, rtol: float = 1e-12) -> None:
    assert a.squares.keys() == b.squares.keys()
    assert a.n_tokens == b.n_tokens
    for site, values in a.squares.items():
        torch.testing.assert_close(values, b.squares[site], rtol=rtol, atol=0)
    assert a.sums.keys() == b.sums.keys()
    for site, values in a.sums.items():
        torch.testing.assert_close(values, b.sums[site], rtol=rtol, atol=rtol)


def test_the_statistics_of_two_halves_merge_to_those_of_the_whole() -> None:
    model, rows = families.decoder("llama"), families.token_ids(6, 12)
    merged = calibrate(model, rows[:2]).merged(calibrate(model, rows[2:]))
    assert_same(merged, calibrate(model, rows))
    assert merged.model == model.identity


def test_statistics_with_and_without_sums_merge_to_some_without() -> None:
    whole = calibrate(families.decoder("llama"), families.token_ids(2, 8))
    old = replace(whole, sums={})
    for merged in (whole.merged(old), old.merged(whole)):
        assert not merged.sums
        assert merged.n_tokens == 32


def test_statistics_of_different_models_do_not_merge() -> None:
    rows = families.token_ids(2, 8)
    one, two = (calibrate(families.decoder("llama", seed=seed), rows) for seed in (0, 1))
    with pytest.raises(ValueError, match="different models"):
        one.merged(two)


def test_the_order_of_the_samples_does_not_matter() -> None:
    model, rows = families.decoder("llama"), families.token_ids(6, 12)
    assert_same(calibrate(model, rows), calibrate(model, rows.flip(0)))


def test_other_tokens_give_other_statistics() -> None:
    model = families.decoder("llama")
    one, two = (calibrate(model, families.token_ids(6, 12, seed=seed)) for seed in (0, 1))
    assert one.options["tokens"] != two.options["tokens"]
    assert all(not torch.equal(values, two.squares[site]) for site, values in one.squares.items())


def test_every_site_is_measured_once() -> None:
    decoder = families.decoder("llama").decoder
    before, after = sites(decoder)
    names = [*before.values(), *after.values()]
    assert len(names) == len(set(names)) == 13 * 2 + 1
    before, after = sites(families.decoder("gpt_neox").decoder)
    names = [*before.values(), *after.values()]
    assert len(names) == len(set(names)) == 11 * 2 + 1
    assert not {"gate.0", "resid.1"} & set(names)


@pytest.mark.parametrize(("name", "most"), [("opt", 64), ("gpt2", 64)])
def test_a_window_longer_than_the_learned_positions_is_refused(name: str, most: int) -> None:
    model = families.decoder(name)
    assert calibrate(model, families.token_ids(1, most)).n_tokens == most
    with pytest.raises(ModelError, match=f"{name} reads 64 tokens at a time and was given a window of 65$"):
        calibrate(model, families.token_ids(1, most + 1))


def test_calibration_leaves_no_hooks_and_no_gradients() -> None:
    model = families.decoder("llama")
    first, second = (calibrate(model, families.token_ids(2, 8)) for _ in range(2))
    assert_same(first, second, rtol=0)
    assert not any(values.requires_grad for values in first.squares.values())


def test_a_lower_precision_gives_nearby_sums_in_float64(tiny: Model) -> None:
    rows = torch.randint(0, 2048, (2, 32), generator=torch.Generator().manual_seed(0))
    full, half = calibrate(tiny, rows), calibrate(tiny, rows, dtype=torch.bfloat16)
    for site, values in full.squares.items():
        assert half.squares[site].dtype == torch.float64
        # bfloat16 keeps 8 bits; the worst site is off by 2 % here
        assert float((half.squares[site].sum() / values.sum()).log().abs()) < 0.1


def test_tokens_that_the_model_does_not_know_are_refused() -> None:
    for token in (64, -1):
        with pytest.raises(ModelError, match="64 tokens"):
            calibrate(families.decoder("llama"), torch.full((1, 4), token))


def test_a_perceptron_is_not_calibrated_on_text() -> None:
    with pytest.raises(InputError, match="not on text"):
        calibrate(families.perceptron(), "some text")


def test_examples_are_read_from_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path, inputs = tmp_path / "examples.safetensors", torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    save_file({"inputs": inputs}, path)
    assert torch.equal(read_examples(path)["inputs"], inputs)
    assert_same(calibrate(families.perceptron(), path), calibrate(families.perceptron(), inputs), rtol=1e-5)
    with pytest.raises(InputError, match="labels"):
        read_examples(path, labelled=True)


# Files


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> None:
    """Changes the tensors and the metadata of a file."""
    from safetensors.torch import save_file

    tensors, metadata = load_tensors(path)
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    change(changed, metadata)
    save_file(changed, path, metadata=metadata)


def test_sums_are_saved_and_loaded(tmp_path: Path) -> None:
    model, path = families.decoder("llama"), tmp_path / "stats.safetensors"
    stats = calibrate(model, families.token_ids(2, 8))
    stats.save(path)
    assert_same(CalibrationStats.load(path, site_sizes(model), model.identity), stats, rtol=0)


def test_a_file_of_version_1_is_read_and_has_no_means(tmp_path: Path) -> None:
    def downgrade(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        metadata["version"] = "1"
        for name in [name for name in tensors if name.startswith("sum/")]:
            del tensors[name]

    model, path = families.decoder("llama"), tmp_path / "stats.safetensors"
    stats = calibrate(model, families.token_ids(2, 8))
    stats.save(path)
    rewritten(path, downgrade)
    old = CalibrationStats.load(path, site_sizes(model), model.identity)
    assert_same(old, replace(stats, sums={}), rtol=0)
    for measure in (old.mean, old.variance):
        with pytest.raises(InputError, match="hold no means; calibrate again"):
            measure("neuron.0")


DAMAGE: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "missing": lambda tensors: tensors.pop("sum/neuron.1"),
    "no site that has a sum": lambda tensors: tensors.update({"sum/gate.0": tensors["gate.0"].clone()}),
    r"has \(3,\) entries, not \(24,\)": lambda tensors: tensors.update({"sum/neuron.1": torch.zeros(3).double()}),
    "is torch.float32": lambda tensors: tensors.update({"sum/neuron.1": torch.zeros(24)}),
    "NaN or infinite": lambda tensors: tensors["sum/attn.0"].fill_(float("nan")),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_sums_are_refused(tmp_path: Path, message: str) -> None:
    model, path = families.decoder("llama"), tmp_path / "stats.safetensors"
    calibrate(model, families.token_ids(2, 8)).save(path)
    rewritten(path, lambda tensors, _: DAMAGE[message](tensors))
    with pytest.raises(FormatError, match=message) as caught:
        CalibrationStats.load(path, site_sizes(model), model.identity)
    assert str(path) in str(caught.value)


def test_a_sum_may_be_negative(tmp_path: Path) -> None:
    model, path = families.decoder("llama"), tmp_path / "stats.safetensors"
    stats = calibrate(model, families.token_ids(2, 8))
    assert (stats.sums["attn.0"] < 0).any()
    stats.save(path)
    assert torch.equal(CalibrationStats.load(path).sums["attn.0"], stats.sums["attn.0"])


# Text


class Letters:
    """A tokenizer with one token a character, which may start every text with a token of its own."""

    def __init__(self, bos: int | None = None, *, adds: bool = True) -> None:
        self.bos_token_id, self.adds = bos, adds
        self.model_max_length = 4

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        start = [self.bos_token_id] if add_special_tokens and self.adds and self.bos_token_id is not None else []
        return {"input_ids": start + [ord(letter) for letter in text]}


def test_windows_do_not_overlap_and_drop_the_rest() -> None:
    rows = windows(Letters(), "abcdefghij", 3)
    assert ["".join(map(chr, row)) for row in rows.tolist()] == ["abc", "def", "ghi"]


def test_every_window_starts_with_bos_where_the_tokenizer_does() -> None:
    rows = windows(Letters(bos=1), "abcdefghij", 4)
    assert rows[:, 0].tolist() == [1, 1, 1]
    assert ["".join(map(chr, row)) for row in rows[:, 1:].tolist()] == ["abc", "def", "ghi"]
    without = windows(Letters(bos=1, adds=False), "abcdefgh", 4)
    assert ["".join(map(chr, row)) for row in without.tolist()] == ["abcd", "efgh"]


@pytest.mark.parametrize(("bos", "count"), [(None, 3), (1, 5)])
def test_a_text_that_is_too_short_says_how_many_windows_it_has(bos: int | None, count: int) -> None:
    text = "abcdefghij"  # ten tokens: three windows of three, five with a token of their own
    assert len(windows(Letters(bos), text, 3, needed=count)) == count
    with pytest.raises(InputError, match=rf"too short.*it has 10; use fewer samples \(at most {count}\)"):
        windows(Letters(bos), text, 3, needed=count + 1)


def test_a_text_shorter_than_one_window_says_so() -> None:
    with pytest.raises(InputError, match="it has 3; use shorter windows"):
        windows(Letters(), "abc", 4)


def test_a_window_predicts_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        windows(Letters(), "abc", 1)


def test_the_tiny_tokenizer_has_no_bos_and_reads_its_text(tiny: Model) -> None:
    text = read_text(Path(str(tiny.folder)) / "evaluation.txt")
    rows = windows(tiny.tokenizer, text, 64)
    ids = tiny.tokenizer(text)["input_ids"]
    assert rows.flatten().tolist() == ids[: rows.numel()]
    assert len(ids) - rows.numel() < 64


@pytest.mark.parametrize(("total", "n"), [(10, 3), (10, 10), (7, 2), (100, 7), (5, 1)])
def test_windows_are_spread_evenly(total: int, n: int) -> None:
    chosen = spread(torch.arange(total)[:, None], n)[:, 0].tolist()
    assert len(chosen) == len(set(chosen)) == n
    assert chosen[0] == 0
    gaps = torch.tensor([*chosen, total]).diff()
    assert gaps.max() - gaps.min() <= 1


def test_all_windows_are_kept_where_there_are_not_more() -> None:
    rows = torch.arange(5)[:, None]
    assert torch.equal(spread(rows, None), rows)
    assert torch.equal(spread(rows, 9), rows)


def test_samples_are_different_windows_in_order_of_the_text() -> None:
    rows = torch.arange(50)[:, None]
    chosen = sampled(rows, 10, seed=0)[:, 0].tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 10
    assert chosen == sampled(rows, 10, seed=0)[:, 0].tolist()
    assert chosen != sampled(rows, 10, seed=1)[:, 0].tolist()
    assert max(chosen) > 25


def test_text_and_its_windows_give_the_same_statistics(tiny: Model) -> None:
    path = Path(str(tiny.folder)) / "calibration.txt"
    rows = sampled(windows(tiny.tokenizer, read_text(path), 32), 3, seed=5)
    by_path = calibrate(tiny, path, n_samples=3, seq_len=32, seed=5)
    assert_same(by_path, calibrate(tiny, rows), rtol=0)
    assert_same(by_path, calibrate(tiny, read_text(path), n_samples=3, seq_len=32, seed=5), rtol=0)
    assert by_path.n_tokens == 96


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is not there"), (b"", "is empty"), (b" \n", "is empty"), (b"ab\xff", "is not UTF-8: .* at byte 2")],
)
def test_a_text_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} {message}"):
        read_text(path)
