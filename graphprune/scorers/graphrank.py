"""PageRank on the whole graph of a model: attention, gates and residual paths included, heads and neurons alike."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from graphprune.centrality.pagerank import pagerank
from graphprune.core.graph import ModelGraph
from graphprune.extraction.export import export, graph_facts
from graphprune.scorers.inputs import ScoringInputs, UnitScores, check_options


@dataclass(frozen=True)
class GraphRank:
    """The PageRank of a unit's output channels in the channel graph, summed over a head's channels.

    Attributes:
        direction: `backward` (credit from the output), `forward`, or `both` (their mean).
        weight: edge weights, `activation` or `magnitude`.
        alpha: probability of following an edge.
        personalization: where the surfer starts: `outputs`, `inputs` or `uniform`.
        normalisation: `layer` (the scores of a group sum to 1) or `none`.
    """

    direction: Literal["backward", "forward", "both"] = "backward"
    weight: Literal["activation", "magnitude"] = "activation"
    alpha: float = 0.9
    personalization: Literal["outputs", "inputs", "uniform"] = "outputs"
    normalisation: Literal["layer", "none"] = "layer"
    name: ClassVar[str] = "graphrank"
    needs_gradients: ClassVar[bool] = False
    is_local: ClassVar[bool] = False

    @property
    def needs_stats(self) -> bool:
        return self.weight == "activation"

    def __post_init__(self) -> None:
        check_options(self)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha lies in [0, 1], not {self.alpha}")
        if (self.direction, self.personalization) in {("forward", "outputs"), ("backward", "inputs")}:
            raise ValueError(f"direction {self.direction} and personalization {self.personalization} reach no unit")

    def __call__(self, inputs: ScoringInputs) -> UnitScores:
        graph = self._graph(inputs)
        rank = pagerank(graph, self.alpha, self.personalization, direction=self.direction).scores
        scores: UnitScores = {}
        for group in inputs.groups:
            values = group.per_unit(graph.nodes.of(rank, group.channel, group.layer)).sum(dim=1)
            scores[group.name] = values / values.sum() if self.normalisation == "layer" else values
        return scores

    def _graph(self, inputs: ScoringInputs) -> ModelGraph:
        """The exported graph if it is the one that is needed, else one made in memory."""
        given, stats = inputs.graph, inputs.stats if self.needs_stats else None
        if given is not None and (given.level, given.weight) == ("channel", self.weight):
            facts = graph_facts(inputs.model, stats)
            if all(given.model.get(key) == facts[key] for key in ("identity", "calibration")):
                return given
        return export(inputs.model, weight=self.weight, stats=stats)
