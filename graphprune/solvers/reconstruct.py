"""What stays of a small network, moved by gradient steps on the error of its output, masks as they are.

The plain way, and the baseline of every cleverer one: Adam over the calibration tokens in small batches, the length of
a step in proportion to the weights that stay, rising first and falling to nothing.
"""

from dataclasses import replace

import torch

from graphprune.solvers.joint import JointProblem, Solution
from graphprune.solvers.network import linear

BATCH = 512
RATE = 0.03  # of the standard deviation of a layer's surviving weights


def reconstructed(problem: JointProblem, start: Solution, passes: int) -> Solution:
    """The network after some passes over the text, or as it was if they don't lower the error.

    Args:
        problem: the network and its text.
        start: the weights to begin with, and their masks.
        passes: over all tokens.

    Cost: three times that of a forward pass, in float32, for every token and pass.
    """
    keep, device = start.keep, start.weights[0].device
    X, Y = torch.cat([*problem.text.inputs]), torch.cat([*problem.text.outputs])
    batches = max(1, -(-len(X) // BATCH))
    power = float(Y.square().sum()) / batches
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        weights = [W.detach().clone().requires_grad_() for W in start.weights]
        rates = [RATE * _spread(W[stays]) for W, stays in zip(start.weights, keep, strict=True)]
        groups = [{"params": [W], "lr": rate} for W, rate in zip(weights, rates, strict=True)]
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, total_steps=passes * batches + 1, pct_start=0.1
        )
        for _ in range(passes):
            for picked in torch.split(torch.randperm(len(X), generator=generator).to(device), BATCH):
                masked = [W * stays for W, stays in zip(weights, keep, strict=True)]
                given = linear(problem.network.features(masked, X[picked].float()), masked[-1], None)
                loss = (Y[picked] - given).square().sum() / power
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    moved = [W.detach() * stays for W, stays in zip(weights, keep, strict=True)]
    moments = problem.of_last(moved)
    error = moments.error(moved[-1])
    if error >= start.errors[-1]:
        return start
    return replace(start, weights=moved, errors=(*start.errors, error), moments=moments)


def _spread(weights: torch.Tensor) -> float:
    return float(weights.std()) if len(weights) > 1 else 1.0
