"""Every MLP of a decoder pruned as a whole, attention layer by layer (SparseLLM, Bai et al. 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from graphprune.core.mask import WEIGHT
from graphprune.core.units import HEAD, NEURON
from graphprune.models.activation import activation_of
from graphprune.models.architecture import Perceptron
from graphprune.models.model import Model
from graphprune.models.perceptron import function_of
from graphprune.solvers.blocks import ATTENTION, ATTENTION_INPUT, MLP_INPUT, Site
from graphprune.solvers.blocks import NEURON as NEURON_SITE
from graphprune.solvers.hessian import Hessian
from graphprune.solvers.joint import Choose, JointMethod, JointOptions, JointProblem, Solution, Text
from graphprune.solvers.network import Chain, Gated, Network
from graphprune.solvers.published import published
from graphprune.solvers.reconstruct import reconstructed
from graphprune.solvers.refit import refit
from graphprune.solvers.sequential import Change, Seen
from graphprune.solvers.units import TINY, UnitSurgeon, output_error
from graphprune.solvers.weights import WeightSurgeon

LAYERS = ("gate_proj", "up_proj", "down_proj")
MLP_ERROR = "mlp_error"


@dataclass(frozen=True)
class JointSurgeon:
    """Removes single weights: of an MLP's layers together, of attention's one by one.

    Attributes:
        local: how a layer is pruned on its own.
        options: of the joint solution.
        layers: the blocks whose MLPs are pruned as a whole; those of the others are pruned layer by layer.
        method: `sparsellm`, auxiliary variables, or `reconstruct`, gradient steps.
    """

    local: WeightSurgeon
    options: JointOptions
    layers: frozenset[int]
    method: JointMethod = "sparsellm"

    def sites(self, layer: int) -> tuple[Site, ...]:
        sites = self.local.sites(layer)
        if self.local.model.is_perceptron:
            return (MLP_INPUT,) if layer == 0 else ()  # it is one network
        if layer not in self.layers or MLP_INPUT not in sites:
            return sites
        return tuple(site for site in sites if site != NEURON_SITE)

    def __call__(self, seen: Seen) -> Change:
        if seen.layer in self.layers and seen.site == MLP_INPUT:
            return self._mlp(seen)
        change = self.local(seen)
        alone = self.options.iterations == 1 or self.options.variant == "published"
        if seen.site in {ATTENTION_INPUT, ATTENTION} and not alone:
            change = self._refitted(seen, change)
        if seen.site != ATTENTION:
            return change
        group = self.local.model.units[f"{HEAD}.{seen.layer}"]
        (reader,) = group.outgoing
        power = output_power(change.parameters[reader.parameter], seen.hessian, group.width)
        return replace(change, notes={group.name: power})

    def _refitted(self, seen: Seen, change: Change) -> Change:
        """Layers pruned on their own, fitted to their dense outputs."""
        H = seen.hessian.damped(self.local.damping).float()
        changed, error, whole = dict[str, torch.Tensor](), 0.0, 0.0
        for name, W in change.parameters.items():
            dense = seen.weights[name].float()
            stays = change.keep[f"{WEIGHT}{name}"].to(dense.device)
            changed[name] = refit(W.float(), stays, H, dense @ H).to(W.dtype)
            lost, had = output_error(dense, changed[name], seen.hessian)
            error, whole = error + lost, whole + had
        return replace(change, parameters=changed, error=error / max(whole, TINY))

    def _mlp(self, seen: Seen) -> Change:
        model = self.local.model
        names = mlp_weights(model, seen.layer)

        def choose(layer: int, W: torch.Tensor, hessian: Hessian) -> tuple[torch.Tensor, torch.Tensor]:
            return self.local.solved(names[layer], W, hessian)

        problem = mlp_problem(model, seen, choose, self.local.damping, self.options)
        if self.method == "reconstruct":
            solution = reconstructed(problem, problem.local(), self.options.iterations)
        elif self.options.variant == "published":
            solution = published(problem, self.options)
        else:
            problem = replace(problem, by_row=self.local.scorer is None)
            solution = problem.solve(self.options)
        return _change(names, problem, solution, model, seen.layer)


@dataclass(frozen=True)
class JointUnitSurgeon:
    """Removes units, and then lets all that is left of an MLP make up for it, not the down projection alone.

    Attributes:
        units: what goes, and the least-squares repair of what reads it.
        options: of the joint solution; masks are those of the units.
        method: `sparsellm`, auxiliary variables, or `reconstruct`, gradient steps.
    """

    units: UnitSurgeon
    options: JointOptions
    method: JointMethod = "sparsellm"

    def sites(self, layer: int) -> tuple[Site, ...]:
        return self.units.sites(layer)

    def __call__(self, seen: Seen) -> Change:
        change = self.units(seen)
        if seen.site != NEURON_SITE or not bool(change.keep[f"{NEURON}.{seen.layer}"].any()):
            return change
        model = self.units.model
        names, stays = mlp_weights(model, seen.layer), change.keep[f"{NEURON}.{seen.layer}"]
        whole = mlp_problem(model, seen, _chosen_already, self.units.damping, self.options)
        stays = stays.to(whole.dense[0].device)
        left = [*(W[stays] for W in whole.dense[:-1]), whole.dense[-1][:, stays]]
        biases = (*(b if b is None else b[stays] for b in whole.network.biases[:-1]), whole.network.biases[-1])
        problem = replace(whole, network=replace(whole.network, biases=biases), dense=left)
        begun = [*left[:-1], change.parameters[names[-1]].float()[:, stays]]
        moments = problem.of_last(begun)
        start = Solution(
            begun, [torch.ones_like(W, dtype=torch.bool) for W in begun], (moments.error(begun[-1]),), moments
        )
        if self.method == "reconstruct":
            solution = reconstructed(problem, start, self.options.iterations)
        else:
            solution = problem.improved(start, self.options)
        parameters = dict[str, torch.Tensor]()
        for name, dense, W in zip(names, whole.dense, solution.weights, strict=True):
            full = dense.clone()
            if name == names[-1]:
                full.zero_()[:, stays] = W
            else:
                full[stays] = W
            parameters[name] = full.to(model.parameters[name].dtype)
        notes = {f"{MLP_ERROR}.{seen.layer}": torch.tensor(solution.errors, dtype=torch.float64)}
        return Change(parameters, change.keep, solution.errors[-1], notes)


def _chosen_already(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("units have been chosen")


def mlp_problem(model: Model, seen: Seen, choose: Choose, damping: float, options: JointOptions) -> JointProblem:
    """A block's MLP, to be pruned behind what has become of the block before it."""
    device = next(iter(seen.weights.values())).device
    dense = [model.parameters[name].to(device).float() for name in mlp_weights(model, seen.layer)]
    network = mlp_network(model, seen.layer, device)
    inputs = [batch.reshape(-1, batch.shape[-1]) for batch in seen.inputs(MLP_INPUT)]
    text = Text.of(network, dense, inputs, options.chunk)
    if seen.site == MLP_INPUT:
        return JointProblem(network, dense, text, choose, damping, seen.hessian)
    read = Hessian.empty(dense[0].shape[1], device=device)
    for X in inputs:
        read.add(X)
    return JointProblem(network, dense, text, choose, damping, read)


def _change(names: Sequence[str], problem: JointProblem, solution: Solution, model: Model, layer: int) -> Change:
    parameters = {name: W.to(model.parameters[name].dtype) for name, W in zip(names, solution.weights, strict=True)}
    keep = {f"{WEIGHT}{name}": stays.cpu() for name, stays in zip(names, solution.keep, strict=True)}
    notes = {f"{MLP_ERROR}.{layer}": torch.tensor(solution.errors, dtype=torch.float64)}
    hidden = len(problem.network.phis) - 1 if isinstance(problem.network, Chain) else 0
    for inner in range(hidden):  # of a perceptron
        hessian = problem.hessian(solution.weights, inner + 1)
        notes[f"{NEURON}.{layer + inner}"] = output_power(solution.weights[inner + 1], hessian, 1)
    notes[f"{NEURON}.{layer + hidden}"] = output_power(solution.weights[-1], solution.moments.hessian, 1)
    return Change(parameters, keep, solution.errors[-1], notes)


def output_power(
    weights: Float[torch.Tensor, "rows columns"], hessian: Hessian, width: int
) -> Float[torch.Tensor, " units"]:
    """The mean square of what every unit of so many columns writes, summed over rows: ``tr(W_u H_uu W_u^T)``."""
    H, W = hessian.total.double() / hessian.tokens, weights.double()
    units = torch.arange(W.shape[1], device=W.device).view(-1, width)
    blocks = H[units[:, :, None], units[:, None, :]]
    parts = W[:, units].permute(1, 0, 2)  # units, rows, width
    return ((parts @ blocks) * parts).sum(dim=(1, 2)).cpu()


def mlp_weights(model: Model, layer: int) -> tuple[str, ...]:
    """The names of an MLP's matrices, or of a whole perceptron's, in the order in which they compute."""
    if isinstance(model.architecture, Perceptron):
        return tuple(model.architecture.parameter(number) for number in range(model.architecture.n_layers))
    names = [model.decoder.parameter(layer, f"{module}.weight") for module in LAYERS]
    return tuple(name for name in names if name in model.shapes)


def mlp_network(model: Model, layer: int, device: torch.device | str = "cpu") -> Network:
    """An MLP's shape, or that of a whole perceptron up to its last activation: activations and biases."""
    names = [name.removesuffix("weight") + "bias" for name in mlp_weights(model, layer)]
    biases = tuple(model.parameters[name].to(device).float() if name in model.shapes else None for name in names)
    if isinstance(model.architecture, Perceptron):
        return Chain(tuple(function_of(name) for name in model.architecture.activations[:-1]), biases)
    phi = activation_of(model)
    return Gated(phi, biases) if len(biases) == len(LAYERS) else Chain((phi,), biases)
