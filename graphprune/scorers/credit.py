"""Credit on the whole graph: what power at the output a unit's output causes, to first order.

Math: on the graph with `power` edges, ``rho = t + A rho`` swept backward from the outputs is how much power at the
output a unit of power at each node causes, all cross terms dropped: the weight of all paths onward. The outputs' own is
``t_c = g_c^2 mean_v E_vc^2 / r^2``, with the gain ``g`` and the scale ``r`` of the last normalisation and the output
embedding ``E``; one where there is none. A channel's credit is its mean square times ``rho``; a unit's is their sum. A
normalisation that centres is taken for one that doesn't, and biases carry no credit.

Credit is absolute: it compares blocks. Within a block it is much like the activation norm.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from graphprune.centrality.log_domain import solve_log
from graphprune.core.graph import ModelGraph
from graphprune.core.stats import CalibrationStats
from graphprune.extraction.export import export
from graphprune.models.architecture import Decoder
from graphprune.models.model import Model
from graphprune.scorers.inputs import ScoringInputs, UnitScores


@dataclass(frozen=True)
class Credit:
    """The power at the output that a unit's output causes, relative to that of the largest unit."""

    name: ClassVar[str] = "credit"
    needs_stats: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    is_local: ClassVar[bool] = False

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        graph = export(inputs.model, weight="power", stats=inputs.measured)
        rho = sensitivity(inputs.model, inputs.measured, graph)
        logs = {}
        for group in inputs.groups:
            power = inputs.measured.rms(group.site).square().log()
            channels = power + graph.nodes.of(rho, group.channel, group.layer)
            logs[group.name] = group.per_unit(channels).logsumexp(dim=1)
        largest = max(float(values.max()) for values in logs.values())
        return {name: (values - largest).exp() for name, values in logs.items()}


def sensitivity(model: Model, stats: CalibrationStats, graph: ModelGraph) -> Float[torch.Tensor, " n_nodes"]:
    """The log of how much power at the output a unit of power at each node causes (``rho``), in topological order."""
    outputs = torch.full((graph.n_nodes,), -torch.inf, dtype=torch.float64)
    first, last = graph.nodes.range(*_last(model))
    outputs[first:last] = _outputs(model, stats, last - first).log()
    return solve_log(graph, outputs, backward=True)


def _last(model: Model) -> tuple[str, int]:
    if isinstance(model.architecture, Decoder):
        return "resid", 2 * model.architecture.n_layers
    return "output", model.architecture.n_layers - 1


def _outputs(model: Model, stats: CalibrationStats, size: int) -> Float[torch.Tensor, " channels"]:
    """What power on each output counts for."""
    if not isinstance(model.architecture, Decoder):
        return torch.ones(size, dtype=torch.float64)
    name = "lm_head.weight" if "lm_head.weight" in model.shapes else "model.embed_tokens.weight"
    embedding = model.parameters[name].float().square().mean(dim=0).double()
    gain = torch.ones(size, dtype=torch.float64)
    if (norm := "model.norm.weight") in model.shapes:
        gain = model.parameters[norm].double() + model.architecture.family.gain_offset
    stream = stats.rms(f"resid.{2 * model.architecture.n_layers}").square().mean()
    return gain.square() * embedding / stream
