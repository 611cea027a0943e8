"""The graph of a model against the model itself: zero a unit, run, and see what the edges said."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphprune.calibration.forward import calibrate
from graphprune.core.errors import InputError
from graphprune.core.graph import ModelGraph
from graphprune.core.stats import CalibrationStats
from graphprune.extraction.export import export
from graphprune.models.architecture import Decoder, Perceptron
from graphprune.models.model import Model
from tests.extraction.trace import Trace, traced, zeroing
from tests.families import GEMMAS, MODEL_TYPES, POST_NORM, UNGATED, causal_lm, perceptron, perceptron_module, token_ids
from tests.unchecked import unchecked

families = pytest.mark.parametrize("model_type", MODEL_TYPES)
N_HEADS, D_MLP, D_MODEL = 4, 24, 16

# Activations are float64 in the running model, but normalisations compute in float32 and so do the folded gains.
FOLDED: dict[str, Any] = {"rtol": 1e-5, "atol": 2e-6}


class Specimen:
    """A model, its signed channel graph as a dense matrix, and a run of it in float64."""

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type
        module = causal_lm(model_type, seed=3)
        self.model = Model.from_module(module, name=model_type)
        self.graph = export(self.model, weight="signed")
        self.adjacency = torch.from_numpy(self.graph.to_scipy().toarray()).double()
        self.network: nn.Module = causal_lm(model_type, seed=3).double()
        self.ids = token_ids(2, 8, seed=1)
        self.dense = traced(self.network, self.ids)
        self.frozen = self.dense.frozen(self.network)
        self.d_head, self.n_kv = (4, 4) if model_type in UNGATED else (8, 2)
        self.parallel = model_type == "gpt_neox"
        self.inner = ("up",) if model_type in UNGATED else ("gate", "up")

    def edges(self, source: tuple[str, int], target: tuple[str, int]) -> torch.Tensor:
        return self.adjacency[slice(*self.graph.nodes.range(*source)), slice(*self.graph.nodes.range(*target))]

    def module(self, layer: int, name: str) -> str:
        home = {"_proj": "self_attn." if name[0] in "qkvo" else "mlp.", "q_norm": "self_attn.", "k_norm": "self_attn."}
        return f"model.layers.{layer}.{home.get(name[-6:], home.get(name[-5:], ''))}{name}"

    def stream(self, trace: Trace, k: int) -> torch.Tensor:
        """The residual stream before the k-th sub-block: what the normalisation at its entrance is given."""
        if k == 4:
            return trace.inputs["model.norm"]
        return trace.inputs[self.entrances(k)[0]]

    def entrances(self, k: int) -> list[str]:
        """The normalisation in front of the k-th sub-block, or the layers that read the stream as it is."""
        if self.model_type == "olmo2":
            return [self.module(k // 2, f"{part}_proj") for part in (("gate", "up") if k % 2 else "qkv")]
        mlp = "pre_feedforward_layernorm" if self.model_type in GEMMAS else "post_attention_layernorm"
        return [self.module(k // 2, mlp if k % 2 else "input_layernorm")]

    def place(self, k: int) -> int:
        """Where the k-th sub-block reads the stream: where both read it, what attention writes has no place of its own.

        What a sub-block writes is then read behind the MLP.
        """
        return k - k % 2 if self.parallel else k

    def after(self, k: int) -> int:
        """Where what the k-th sub-block writes is first read."""
        return k + 2 - k % 2 if self.parallel else k + 1

    def steps(self) -> list[tuple[int, int]]:
        """Neighbouring places in the stream."""
        return list(pairwise(range(0, 5, 2 if self.parallel else 1)))

    def normalised(self, change: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What a normalisation without gain makes of a change of ``x`` with its denominator held.

        Centring isn't in the graph: it is done here to what the edges carry.
        """
        if self.model_type in UNGATED:
            spread = x.var(dim=-1, keepdim=True, correction=0)
            return (change - change.mean(dim=-1, keepdim=True)) / spread.add(1e-5).sqrt()
        if self.model_type == "olmo2":
            return change
        return change / x.square().mean(dim=-1, keepdim=True).add(1e-6).sqrt()

    def denominator(self, output: str) -> torch.Tensor | float:
        """What the normalisation after a sub-block divided its output by in the dense run; 1 if there is none."""
        if self.model_type not in POST_NORM:
            return 1.0
        return self.dense.outputs[output].square().mean(dim=-1, keepdim=True).add(1e-6).sqrt()


def loudest(x: torch.Tensor) -> list[int]:
    """The two channels that carry most; under a ReLU others may carry nothing."""
    found: list[int] = x.abs().amax(dim=(0, 1)).topk(2).indices.tolist()
    return found


@cache
def specimen(model_type: str) -> Specimen:
    return Specimen(model_type)


@families
@pytest.mark.parametrize("layer", [0, 1])
def test_removing_a_head_changes_the_stream_by_what_its_outgoing_edges_say(model_type: str, layer: int) -> None:
    s = specimen(model_type)
    output = s.module(layer, "o_proj")
    after = s.after(2 * layer)
    edges = s.edges(("attn", layer), ("resid", after))
    for head in range(N_HEADS):
        channels = range(head * s.d_head, (head + 1) * s.d_head)
        cut = traced(s.network, s.ids, inputs={output: zeroing(*channels)}, frozen=s.frozen)
        found = s.stream(cut, after) - s.stream(s.dense, after)
        carried = s.dense.inputs[output][..., list(channels)] / s.denominator(output)
        torch.testing.assert_close(found, -carried @ edges[list(channels)], **FOLDED)
        assert found.abs().max() > 0.1


@families
@pytest.mark.parametrize("layer", [0, 1])
def test_removing_a_neuron_changes_the_stream_by_what_its_outgoing_edges_say(model_type: str, layer: int) -> None:
    s = specimen(model_type)
    output = s.module(layer, "down_proj")
    edges = s.edges(("neuron", layer), ("resid", 2 * layer + 2))
    for neuron in loudest(s.dense.inputs[output]):
        cut = traced(s.network, s.ids, inputs={output: zeroing(neuron)}, frozen=s.frozen)
        found = s.stream(cut, 2 * layer + 2) - s.stream(s.dense, 2 * layer + 2)
        carried = s.dense.inputs[output][..., [neuron]] / s.denominator(output)
        torch.testing.assert_close(found, -carried @ edges[[neuron]], **FOLDED)
        assert found.abs().max() > 0.01


@families
@pytest.mark.parametrize("layer", [0, 1])
def test_a_change_of_the_stream_reaches_the_projections_as_the_edges_say(model_type: str, layer: int) -> None:
    """With denominators held at the dense run's, what a sub-block reads is linear in the stream."""
    s = specimen(model_type)
    for k, kinds in ((2 * layer, ("query", "key", "value")), (2 * layer + 1, s.inner)):
        x = s.stream(s.dense, k)
        nudge = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=x.dtype)
        changed = traced(s.network, s.ids, inputs=dict.fromkeys(s.entrances(k), nudge.add), frozen=s.frozen)
        arriving = s.normalised(nudge, x)
        for kind in kinds:
            projection = s.module(layer, f"{kind if kind in {'gate', 'up'} else kind[0]}_proj")
            node = s.module(layer, f"{kind[0]}_norm")
            expected = arriving @ s.edges(("resid", s.place(k)), (kind, layer))
            if node in s.dense.outputs and kind in {"query", "key"}:  # the node is what the head's normalisation gives
                raw = s.dense.inputs[node]
                heads = expected.view(*expected.shape[:2], -1, raw.shape[-1])  # OLMo 2 takes all of them together
                heads = heads.transpose(1, 2) if model_type == "gemma3_text" else heads  # heads before tokens
                heads = heads.view(raw.shape)
                expected = heads / raw.square().mean(dim=-1, keepdim=True).add(1e-6).sqrt()
            else:
                node = projection
            found = changed.outputs[node] - s.dense.outputs[node]
            torch.testing.assert_close(found, expected, **FOLDED)
            assert found.abs().max() > 0.1


@families
def test_the_stream_passes_every_sub_block_unchanged(model_type: str) -> None:
    s = specimen(model_type)
    for k, following in s.steps():
        assert torch.equal(s.edges(("resid", k), ("resid", following)), torch.eye(D_MODEL, dtype=torch.float64))


def test_attention_and_mlp_of_a_parallel_block_read_and_write_the_same_places() -> None:
    for parallel in (True, False):
        module = causal_lm("gpt_neox", seed=3, use_parallel_residual=parallel)
        model, graph = Model.from_module(module), export(Model.from_module(module))
        adjacency = graph.to_scipy()

        def linked(source: tuple[str, int], target: tuple[str, int], matrix: Any = adjacency, g: Any = graph) -> bool:
            return bool(matrix[slice(*g.nodes.range(*source)), slice(*g.nodes.range(*target))].nnz)

        assert model.decoder.parallel is parallel
        assert [span.layer for span in graph.nodes.spans if span.kind == "resid"] == [*range(0, 5, 1 + parallel)]
        assert (graph.n_nodes, graph.n_edges) == (model.decoder.n_nodes, model.decoder.n_edges)
        assert linked(("resid", 2), ("query", 1))
        assert linked(("resid", 2 if parallel else 3), ("up", 1))
        assert linked(("attn", 1), ("resid", 4 if parallel else 3))
        assert linked(("neuron", 1), ("resid", 4))
        assert linked(("resid", 2), ("resid", 4)) is parallel
        if not parallel:
            assert not linked(("resid", 2), ("up", 1))
            assert not linked(("attn", 1), ("resid", 4))


@families
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    ("kind", "via", "target"),
    [
        ("query", "pattern", "attn"),
        ("key", "pattern", "attn"),
        ("value", None, "attn"),
        ("gate", None, "neuron"),
        ("up", None, "neuron"),
    ],
)
def test_a_zeroed_channel_changes_exactly_what_the_edges_reach(
    model_type: str, layer: int, kind: str, via: str | None, target: str
) -> None:
    s = specimen(model_type)
    if kind == "gate" and model_type in UNGATED:
        assert f"gate.{layer}" not in s.graph.nodes
        return
    heads = N_HEADS if kind == "query" else s.n_kv
    width = D_MLP if target == "neuron" else heads * s.d_head
    projection = s.module(layer, f"{kind if kind in {'gate', 'up'} else kind[0]}_proj")
    seen = s.module(layer, "o_proj" if target == "attn" else "down_proj")
    edges = s.edges((kind, layer), (via or target, layer))
    if via is not None:
        edges = edges @ s.edges((via, layer), (target, layer))
    for channel in loudest(s.dense.inputs[seen]) if target == "neuron" else (s.d_head, width - 1):
        cut = traced(s.network, s.ids, outputs={projection: zeroing(channel)}, frozen=s.frozen)
        moved = (cut.inputs[seen] - s.dense.inputs[seen]).abs().amax(dim=(0, 1)) > 1e-7
        assert moved.nonzero()[:, 0].tolist() == edges[channel].nonzero()[:, 0].tolist()
        assert moved.any()


@families
def test_structural_edges_of_weight_graphs_are_one(model_type: str) -> None:
    s = specimen(model_type)
    for weight in ("signed", "magnitude"):
        graph = s.graph if weight == "signed" else export(s.model, weight="magnitude")
        dense = torch.from_numpy(graph.to_scipy().toarray())
        for kind, target in (("query", "pattern"), ("key", "pattern"), ("value", "attn"), ("pattern", "attn"),
                             *((kind, "neuron") for kind in s.inner)):  # fmt: skip
            part = dense[slice(*graph.nodes.range(kind, 1)), slice(*graph.nodes.range(target, 1))]
            assert set(part.flatten().tolist()) == {0.0, 1.0}


@families
def test_magnitude_is_the_absolute_value_of_signed_and_both_signs_occur(model_type: str) -> None:
    s = specimen(model_type)
    magnitude = torch.from_numpy(export(s.model).to_scipy().toarray()).double()
    assert torch.equal(magnitude, s.adjacency.abs())
    assert bool((s.adjacency < 0).any())


@families
def test_nodes_and_edges_follow_the_closed_formula(model_type: str) -> None:
    s = specimen(model_type)
    assert (s.graph.n_nodes, s.graph.n_edges) == (s.model.architecture.n_nodes, s.model.architecture.n_edges)
    linears = sum(p.numel() for name, p in s.model.parameters.items() if name.endswith("_proj.weight"))
    attention, gating = 4 * N_HEADS * s.d_head, len(s.inner) * D_MLP
    skips = len(s.steps()) * D_MODEL
    assert s.graph.n_edges == linears + skips + 2 * (attention + gating)


def test_smollm2_has_the_nodes_and_edges_of_the_formula() -> None:
    smollm2 = Decoder("llama", n_layers=30, d_model=576, n_heads=9, n_kv_heads=3, d_head=64, d_mlp=1536)
    assert (smollm2.n_nodes, smollm2.n_edges) == (219_726, 106_364_160)


def test_gpt2_and_pythia_have_the_nodes_and_edges_of_the_formula() -> None:
    gpt2 = Decoder("gpt2", n_layers=12, d_model=768, n_heads=12, n_kv_heads=12, d_head=64, d_mlp=3072)
    assert (gpt2.n_nodes, gpt2.n_edges) == (129_936, 85_026_816)
    pythia = Decoder("gpt_neox", 6, 512, n_heads=8, n_kv_heads=8, d_head=64, d_mlp=2048, parallel=True)
    assert pythia.n_nodes == 7 * 512 + 6 * (4 * 512 + 8 + 2 * 2048)
    assert pythia.n_edges == 6 * (4 * 512**2 + 2 * 512 * 2048 + 512 + 4 * 512 + 2048)


@pytest.mark.parametrize("level", ["channel", "unit", "block"])
@families
def test_every_family_exports_at_every_level_in_topological_order(model_type: str, level: str) -> None:
    s = specimen(model_type)
    graph = export(s.model, level=level)  # type: ignore[arg-type]
    dense = torch.from_numpy(graph.to_scipy().toarray())
    assert torch.equal(dense, dense.triu(diagonal=1))
    kinds = {span.kind: span.size for span in graph.nodes.spans}
    if level == "unit":
        assert kinds == {"resid": D_MODEL, "head": N_HEADS, "kv_head": s.n_kv, "neuron": D_MLP}
    if level == "block":
        assert kinds == {"resid": 1, "attn": 1, "mlp": 1}
        assert graph.n_nodes == len(s.steps()) + 1 + 4
    assert graph.level == level


@families
def test_activation_edges_carry_what_was_measured(model_type: str) -> None:
    s = specimen(model_type)
    stats = calibrate(s.model, s.ids)
    graph = export(s.model, weight="activation", stats=stats)
    dense = torch.from_numpy(graph.to_scipy().toarray()).double()

    def rms(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, x.shape[-1]).square().mean(dim=0).sqrt()

    def found(source: tuple[str, int], target: tuple[str, int]) -> torch.Tensor:
        return dense[slice(*graph.nodes.range(*source)), slice(*graph.nodes.range(*target))]

    def gain(name: str) -> torch.Tensor:
        return s.model.parameters[f"{name}.weight"].double() + (model_type in GEMMAS)

    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # the calibration ran in float32, this run in float64
    for layer in (0, 1):
        read = s.dense.inputs[s.module(layer, "q_proj")], s.dense.inputs[s.module(layer, "up_proj")]
        reads = [(name, kind, 0) for name, kind in zip("qkv", ("query", "key", "value"), strict=True)]
        reads += [(part, part, 1) for part in s.inner]
        for name, kind, which in reads:
            matrix = s.model.parameters[f"{s.module(layer, f'{name}_proj')}.weight"].double()
            if (norm := s.module(layer, f"{name}_norm")) in s.dense.outputs:
                raw = s.dense.outputs[s.module(layer, f"{name}_proj")]  # a head's normalisation divides by its own size
                together = len(gain(norm))  # of OLMo 2 by that of all heads
                size = raw.reshape(-1, len(matrix) // together, together).square().mean(dim=(0, 2)).sqrt()
                matrix = matrix * gain(norm).repeat(len(size))[:, None] / size.repeat_interleave(together)[:, None]
            expected = (matrix.abs() * rms(read[which])).T
            place = s.place(2 * layer + which)
            torch.testing.assert_close(found(("resid", place), (kind, layer)), expected, **close)
        for name, kind, which, post in (("o", "attn", 0, "post_attention"), ("down", "neuron", 1, "post_feedforward")):
            module = s.module(layer, f"{name}_proj")
            carried, out = s.dense.inputs[module], s.dense.outputs[module]
            matrix = s.model.parameters[f"{module}.weight"].double()
            if model_type in POST_NORM:
                post_gain = gain(s.module(layer, f"{post}_layernorm"))
                matrix = matrix * post_gain[:, None] / out.square().mean().sqrt()
            expected = (matrix.abs() * rms(carried)).T
            place = s.after(2 * layer + which)
            torch.testing.assert_close(found((kind, layer), ("resid", place)), expected, **close)
        for kind, target, module in (("value", "attn", "o_proj"), ("pattern", "attn", "o_proj"),
                                     *((part, "neuron", "down_proj") for part in s.inner)):  # fmt: skip
            product = rms(s.dense.inputs[s.module(layer, module)])
            expected = (s.edges((kind, layer), (target, layer)) != 0) * product
            torch.testing.assert_close(found((kind, layer), (target, layer)), expected, **close)
    for k, following in s.steps():
        expected = rms(s.stream(s.dense, k)).diag()
        torch.testing.assert_close(found(("resid", k), ("resid", following)), expected, **close)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_activation_edges_into_a_pattern_carry_query_times_key(model_type: str) -> None:
    s = specimen(model_type)
    graph = export(s.model, weight="activation", stats=calibrate(s.model, s.ids))
    dense = torch.from_numpy(graph.to_scipy().toarray()).double()
    last = "norm" if model_type in {"qwen3", "gemma3_text", "olmo2"} else "proj"  # what the pattern is computed from
    for layer in (0, 1):
        query, key = (
            s.dense.outputs[s.module(layer, f"{name}_{last}")].reshape(-1, width).square().mean(dim=0).sqrt()
            for name, width in (("q", N_HEADS * s.d_head), ("k", s.n_kv * s.d_head))
        )
        queries, keys, patterns = (slice(*graph.nodes.range(kind, layer)) for kind in ("query", "key", "pattern"))
        for head in range(N_HEADS):
            mine = slice(head * s.d_head, (head + 1) * s.d_head)
            group = head // (N_HEADS // s.n_kv)
            theirs = slice(group * s.d_head, (group + 1) * s.d_head)
            term = query[mine] * key[theirs]
            torch.testing.assert_close(dense[queries, patterns][mine, head], term, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(dense[keys, patterns][theirs, head], term, rtol=1e-4, atol=1e-5)


def test_skip_edges_are_the_statistics_of_the_stream_they_carry() -> None:
    s = specimen("llama")
    stats = calibrate(s.model, s.ids)
    graph = export(s.model, weight="activation", stats=stats)
    dense = torch.from_numpy(graph.to_scipy().toarray())
    for k in range(4):
        skip = dense[slice(*graph.nodes.range("resid", k)), slice(*graph.nodes.range("resid", k + 1))]
        assert torch.equal(skip, stats.rms(f"resid.{k}").float().diag())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid])
@pytest.mark.parametrize("sizes", [(6, 10, 4), (6, 10, 8, 4), (3, 5, 7, 6, 2)])
def test_removing_a_neuron_of_a_perceptron_changes_the_next_layer_as_its_edges_say(
    sizes: tuple[int, ...], activation: type[nn.Module]
) -> None:
    module = perceptron_module(sizes, activation=activation, seed=5)
    model = Model.from_module(module)
    graph = export(model, weight="signed")
    assert (graph.n_nodes, graph.n_edges) == (model.architecture.n_nodes, model.architecture.n_edges)
    assert (graph.n_nodes, graph.n_edges) == (sum(sizes), sum(a * b for a, b in pairwise(sizes)))
    dense = torch.from_numpy(graph.to_scipy().toarray()).double()
    x = torch.randn(9, sizes[0], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    network = module.double()
    with torch.inference_mode():
        for layer in range(len(sizes) - 2):
            hidden = network[: 2 * layer + 2](x)
            following = network[2 * layer + 2]
            source = slice(*graph.nodes.range("neuron", layer))
            last = layer == len(sizes) - 3
            target = slice(*graph.nodes.range(*(("output", layer + 1) if last else ("neuron", layer + 1))))
            for neuron in range(sizes[layer + 1]):
                found = following(zeroing(neuron)(hidden.clone())) - following(hidden)
                torch.testing.assert_close(found, -hidden[:, [neuron]] @ dense[source, target][[neuron]])


def test_activation_edges_of_a_perceptron_are_weights_times_what_arrives() -> None:
    model = perceptron((6, 10, 4), seed=5)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(2))
    graph = export(model, weight="activation", stats=calibrate(model, x))
    dense = torch.from_numpy(graph.to_scipy().toarray())
    first, second = model.parameters["layers.0.weight"], model.parameters["layers.1.weight"]
    hidden = (x @ first.T + model.parameters["layers.0.bias"]).relu()
    torch.testing.assert_close(dense[:6, 6:16], (first.abs() * x.square().mean(dim=0).sqrt()).T)
    torch.testing.assert_close(dense[6:16, 16:], (second.abs() * hidden.square().mean(dim=0).sqrt()).T)


def test_a_graph_on_disk_is_the_graph_in_memory(tmp_path: Path) -> None:
    model = specimen("llama").model
    stored, held = export(model, folder=tmp_path / "graph", inputs="abc"), export(model)
    assert stored.nodes == held.nodes
    assert stored.model["identity"] == model.identity
    assert (stored.to_scipy() != held.to_scipy()).nnz == 0
    torch.testing.assert_close(stored.out_strength, held.out_strength)
    torch.testing.assert_close(stored.in_strength, held.in_strength)


def test_activation_edges_need_statistics_of_the_same_model() -> None:
    model = specimen("llama").model
    other = CalibrationStats(calibrate(model, token_ids()).squares, 16, model="another")
    with pytest.raises(InputError, match="need calibration"):
        export(model, weight="activation")
    with pytest.raises(InputError, match="another model"):
        export(model, weight="activation", stats=other)


def test_unknown_levels_and_weights_are_refused_with_the_known_ones() -> None:
    model = specimen("llama").model
    with unchecked(), pytest.raises(InputError, match="channel, unit, block"):
        export(model, level="atom")  # type: ignore[arg-type]
    with unchecked(), pytest.raises(InputError, match="magnitude, activation, power, signed"):
        export(model, weight="length")  # type: ignore[arg-type]


def test_a_failed_export_leaves_the_graph_that_was_there(tmp_path: Path) -> None:
    model = specimen("llama").model
    export(model, folder=tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    parameters = {name: tensor for name, tensor in model.parameters.items() if "layers.1.mlp.up" not in name}
    broken = Model(model.name, model.architecture, model.config, parameters, model.identity)
    with pytest.raises(KeyError, match="up_proj"):
        export(broken, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_formulas_of_a_perceptron_count_layers() -> None:
    shape = Perceptron((784, 300, 100, 10), ("relu", "relu", "identity"), (True, True, True))
    assert (shape.n_nodes, shape.n_edges) == (1194, 784 * 300 + 300 * 100 + 100 * 10)
    assert isinstance(export(perceptron()), ModelGraph)
