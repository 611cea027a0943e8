"""What a network looks like: sizes, and the names of its parameters. Read off parameter shapes, no weights needed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from graphprune.core.errors import ModelError
from graphprune.core.units import HEAD, KV_HEAD, NEURON, Ownership, UnitGroup, UnitTable
from graphprune.models.naming import Naming, naming_of

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """What a family of decoders has, and how it names that, relative to ``model.layers.L.`` (see `naming`).

    Attributes:
        model_types: the `model_type` values of its configurations.
        attention_norm: the normalisation before attention, where there is one.
        mlp_norm: the normalisation before the MLP, where there is one.
        attention_post_norm: the normalisation of the attention's output, where there is one.
        mlp_post_norm: the normalisation of the MLP's output, where there is one.
        head_norm: whether queries and keys are normalised after their projection, every head on its own.
        joint_norm: or all heads together, so that no query and no key can go without changing those of other heads:
            a head then loses what it reads of the values and what it writes, and keeps its query and key.
        gain_offset: what is added to a stored gain (Gemma stores gains as a difference from one).
        gated: whether a neuron is the product of a gate and an up projection, or the activation of the latter alone.
        parallel: what the configuration calls it that attention and MLP of a block both read what enters the block and
            write to what leaves it; None where they come one after the other.
        heads_key: what the configuration calls the number of query heads.
        width_key: and the number of neurons.
        free_heads: whether heads can be removed from the shapes: whether the configuration has a ``head_dim``, and no
            normalisation takes all heads together.
        position_offset: rows of a learned position embedding that are no position.
    """

    model_types: tuple[str, ...]
    attention_norm: str | None = "input_layernorm"
    mlp_norm: str | None = "post_attention_layernorm"
    attention_post_norm: str | None = None
    mlp_post_norm: str | None = None
    head_norm: bool = False
    joint_norm: bool = False
    gain_offset: float = 0.0
    gated: bool = True
    parallel: str | None = None
    heads_key: str = "num_attention_heads"
    width_key: str = "intermediate_size"
    free_heads: bool = True
    position_offset: int = 0


_GEMMA = Family(
    (),
    mlp_norm="pre_feedforward_layernorm",
    attention_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    gain_offset=1.0,
)
FAMILIES: dict[str, Family] = {
    "llama": Family(("llama",)),
    "mistral": Family(("mistral",)),
    "qwen2": Family(("qwen2",)),
    "qwen3": Family(("qwen3",), head_norm=True),
    "gemma2": replace(_GEMMA, model_types=("gemma2",)),
    "gemma3": replace(_GEMMA, model_types=("gemma3_text",), head_norm=True),
    "phi3": Family(("phi3",)),
    "smollm3": Family(("smollm3",)),
    "olmo2": Family(
        ("olmo2",),
        attention_norm=None,
        mlp_norm=None,
        attention_post_norm="post_attention_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
        joint_norm=True,
        free_heads=False,
    ),
    "opt": Family(("opt",), gated=False, width_key="ffn_dim", free_heads=False, position_offset=2),
    "gpt2": Family(("gpt2",), gated=False, heads_key="n_head", width_key="n_inner", free_heads=False),
    "gpt_neox": Family(("gpt_neox",), gated=False, parallel="use_parallel_residual", free_heads=False),
}


def family_of(model_type: str) -> Family:
    """The family with this `model_type`.

    Raises:
        ModelError: none has; the supported ones are named.
    """
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    names = ", ".join([*(name for family in FAMILIES.values() for name in family.model_types), "perceptron"])
    raise ModelError(f"the architecture {model_type!r} is not supported; supported are {names}")


def check_supported(config: Mapping[str, Any]) -> None:
    """Checks that a decoder's configuration is of a supported form of a supported family.

    Raises:
        ModelError: it isn't.
    """
    family_of(model_type := str(config.get("model_type")))
    if model_type == "opt":
        projected = config.get("word_embed_proj_dim") not in (None, config.get("hidden_size"))
        if projected or not config.get("do_layer_norm_before", True) or config.get("_remove_final_layer_norm", False):
            raise ModelError(
                "OPT is supported with normalisation before every sub-block and at the end, and an embedding as wide "
                "as the stream; this checkpoint (like OPT-350M) is of another form"
            )
    if config.get("add_cross_attention", False):
        raise ModelError("a decoder with cross-attention is not supported")


@dataclass(frozen=True)
class Decoder:
    """A decoder's sizes. All blocks have the same shape.

    Attributes:
        parallel: whether attention and MLP both read what enters the block, so that neither reads what the other wrote.
        fixed_heads: whether the configuration fixes how many heads there are although the family does not: one that
            lists rotary factors (``longrope``) is checked against the width of the stream divided by the heads.
    """

    model_type: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    parallel: bool = False
    fixed_heads: bool = False

    @property
    def free_heads(self) -> bool:
        """Whether heads can be removed from the shapes."""
        return self.family.free_heads and not self.fixed_heads

    @property
    def family(self) -> Family:
        return family_of(self.model_type)

    @property
    def naming(self) -> Naming:
        """What the stock class calls the parts."""
        return naming_of(self.model_type, self.n_heads, self.n_kv_heads)

    @property
    def mlp_parts(self) -> tuple[str, ...]:
        """The kinds of node that an MLP's projections write to: `gate` where there is one, and `up`."""
        return ("gate", "up") if self.family.gated else ("up",)

    @property
    def stream(self) -> tuple[int, ...]:
        """The numbers ``k`` of the places ``resid.k`` at which the stream is written to or read.

        Block ``l`` reads ``resid.2l`` and writes ``resid.2l+2``; ``resid.2l+1`` is what its attention has written for
        its MLP to read, and isn't there where the two are parallel.
        """
        return tuple(range(0, 2 * self.n_layers + 1, 2 if self.parallel else 1))

    def mlp_input(self, layer: int) -> int:
        """The number of the place in the stream that the MLP of a block reads."""
        return 2 * layer + (not self.parallel)

    @property
    def n_nodes(self) -> int:
        """Nodes of the graph at channel level: a closed formula."""
        attention = 2 * self.n_heads * self.d_head + 2 * self.n_kv_heads * self.d_head + self.n_heads
        mlp = (len(self.mlp_parts) + 1) * self.d_mlp
        return self.d_model * len(self.stream) + self.n_layers * (attention + mlp)

    @property
    def n_edges(self) -> int:
        """Edges of the graph at channel level: a closed formula."""
        heads, kv = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        inward = len(self.mlp_parts)
        linears = self.d_model * (2 * heads + 2 * kv + (inward + 1) * self.d_mlp)
        structure = 4 * heads + inward * self.d_mlp  # query, key, value, pattern; gate, up
        skips = self.d_model * (len(self.stream) - 1)
        return self.n_layers * (linears + structure) + skips

    def entrance(self, layer: int, norm: str | None, sub_block: str | None = None) -> str:
        """What reads the stream in front of a sub-block: its normalisation, or where it has none it, or the block."""
        if norm is not None:
            return self.parameter(layer, norm)
        return f"{self.block(layer)}{sub_block or ''}".removesuffix(".")

    def block(self, layer: int) -> str:
        return f"model.layers.{layer}."

    def layer_of(self, parameter: str) -> int | None:
        """The block that a parameter belongs to, if it belongs to one."""
        home, _, rest = parameter.partition("model.layers.")
        return int(rest.split(".", maxsplit=1)[0]) if not home and rest else None

    def parameter(self, layer: int, part: str) -> str:
        """The full name of a block's parameter, for example ``q_proj.weight`` or ``input_layernorm.weight``."""
        module = part.split(".", maxsplit=1)[0]
        home = "self_attn." if module in _ATTENTION else "mlp." if module in _MLP else ""
        return f"{self.block(layer)}{home}{part}"

    def unit_table(self, shapes: Shapes) -> UnitTable:
        """Heads, key/value heads and neurons, and what each of them owns."""
        groups = []
        for layer in range(self.n_layers):
            d = self.d_head
            asks, answers = ((), ()) if self.family.joint_norm else ((("q_proj", 0, d),), (("k_proj", 0, d),))
            heads = self._owned(layer, shapes, (*asks, ("o_proj", 1, d)))
            kv = self._owned(layer, shapes, (*answers, ("v_proj", 0, d)))
            inward = tuple((f"{part}_proj", 0, 1) for part in self.mlp_parts)
            neurons = self._owned(layer, shapes, (*inward, ("down_proj", 1, 1)))
            groups += [
                UnitGroup(HEAD, layer, self.n_heads, heads, "attn", d, _cost(heads, shapes)),
                UnitGroup(KV_HEAD, layer, self.n_kv_heads, kv, "value", d, _cost(kv, shapes)),
                UnitGroup(NEURON, layer, self.d_mlp, neurons, "neuron", 1, _cost(neurons, shapes)),
            ]
        return UnitTable(tuple(groups))

    def _owned(self, layer: int, shapes: Shapes, parts: tuple[tuple[str, int, int], ...]) -> tuple[Ownership, ...]:
        owned = []
        for module, axis, width in parts:
            owned.append(Ownership(self.parameter(layer, f"{module}.weight"), axis, width))
            bias = self.parameter(layer, f"{module}.bias")
            if axis == 0 and bias in shapes:
                owned.append(Ownership(bias, 0, width))
        return tuple(owned)

    def block_parameters(self, shapes: Shapes) -> int:
        """Parameters of all decoder blocks, normalisations included."""
        return sum(_numel(shape) for name, shape in shapes.items() if name.startswith("model.layers."))

    def facts(self) -> dict[str, Any]:
        return asdict(self)


_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"})
_MLP = frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"})


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _cost(owns: tuple[Ownership, ...], shapes: Shapes) -> int:
    return sum(_numel(shapes[own.parameter]) // shapes[own.parameter][own.axis] * own.width for own in owns)


def decoder(config: Mapping[str, Any], shapes: Shapes) -> Decoder:
    """The sizes of a decoder, from its configuration's head count and its parameters' shapes.

    Raises:
        ModelError: the architecture isn't supported, or the parameters aren't those of its family.
    """
    check_supported(config)
    model_type = str(config["model_type"])
    family = family_of(model_type)
    layers = {int(name.split(".")[2]) for name in shapes if name.startswith("model.layers.")}
    probe = Decoder(model_type, len(layers), 0, 0, 0, 0, 0)
    try:
        n_heads = int(config[family.heads_key])
        heads, d_model = shapes[probe.parameter(0, "q_proj.weight")]
        d_head = heads // n_heads
        n_kv_heads = shapes[probe.parameter(0, "k_proj.weight")][0] // d_head
        d_mlp = shapes[probe.parameter(0, "up_proj.weight")][0]
        parallel = family.parallel is not None and bool(config.get(family.parallel, True))
        rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
        fixed = "short_factor" in rotary
        result = Decoder(model_type, len(layers), d_model, n_heads, n_kv_heads, d_head, d_mlp, parallel, fixed)
        _check_shapes(result, shapes)
    except (KeyError, ValueError, ZeroDivisionError, TypeError) as error:
        raise ModelError(f"the checkpoint's parameters are not those of a {model_type} model: {error}") from error
    return result


def _check_shapes(decoder: Decoder, shapes: Shapes) -> None:
    d, heads, kv = decoder.d_model, decoder.n_heads * decoder.d_head, decoder.n_kv_heads * decoder.d_head
    if decoder.n_heads % decoder.n_kv_heads:
        raise ValueError(f"{decoder.n_heads} query heads don't divide among {decoder.n_kv_heads} key/value heads")
    expected = {"q_proj": (heads, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, heads),
                "down_proj": (d, decoder.d_mlp)}  # fmt: skip
    expected |= {f"{part}_proj": (decoder.d_mlp, d) for part in decoder.mlp_parts}
    for layer in range(decoder.n_layers):
        for module, shape in expected.items():
            name = decoder.parameter(layer, f"{module}.weight")
            if tuple(shapes[name]) != shape:
                raise ValueError(f"{name} has shape {tuple(shapes[name])}, expected {shape}")


@dataclass(frozen=True)
class Perceptron:
    """A stack of linear layers with activations between them.

    Attributes:
        sizes: inputs, hidden widths, outputs.
        activations: one name a layer; `identity` where there is none.
        biases: whether each linear layer has one.
    """

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    biases: tuple[bool, ...]
    model_type: str = "perceptron"

    @property
    def n_layers(self) -> int:
        return len(self.activations)

    def layer_of(self, parameter: str) -> int:
        """The layer that a parameter belongs to."""
        return int(parameter.split(".")[1])

    def parameter(self, layer: int, part: str = "weight") -> str:
        return f"layers.{layer}.{part}"

    @property
    def n_nodes(self) -> int:
        return sum(self.sizes)

    @property
    def n_edges(self) -> int:
        return sum(a * b for a, b in zip(self.sizes, self.sizes[1:], strict=False))

    def unit_table(self, shapes: Shapes) -> UnitTable:
        """The hidden neurons; inputs and outputs stay."""
        groups = []
        for layer in range(self.n_layers - 1):
            owns = [Ownership(self.parameter(layer), 0, 1)]
            if self.biases[layer]:
                owns.append(Ownership(self.parameter(layer, "bias"), 0, 1))
            owns.append(Ownership(self.parameter(layer + 1), 1, 1))
            size = self.sizes[layer + 1]
            groups.append(UnitGroup(NEURON, layer, size, tuple(owns), "neuron", 1, _cost(tuple(owns), shapes)))
        return UnitTable(tuple(groups))

    def block_parameters(self, shapes: Shapes) -> int:
        return sum(_numel(shape) for shape in shapes.values())

    def facts(self) -> dict[str, Any]:
        return asdict(self)


Architecture = Decoder | Perceptron
