"""A trained network as a weighted graph: rank every part of it, remove what ranks low, prove what it cost.

The public names import lazily, so that ``import graphprune`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from graphprune.models import registration

if TYPE_CHECKING:
    from graphprune.calibration.forward import calibrate as calibrate
    from graphprune.comparison.agreement import compare as compare
    from graphprune.comparison.result import Comparison as Comparison
    from graphprune.core.graph import ModelGraph as ModelGraph
    from graphprune.core.mask import Mask as Mask
    from graphprune.core.scores import Scores as Scores
    from graphprune.core.stats import CalibrationStats as CalibrationStats
    from graphprune.evaluation.evaluate import evaluate as evaluate
    from graphprune.extraction.export import export as export
    from graphprune.models.load import load_model as load_model
    from graphprune.models.model import Model as Model
    from graphprune.pruning import prune as prune
    from graphprune.scorers import score as score
    from graphprune.steps.studying import study as study

__version__ = "0.1.0"

registration.register()

_HOME = {
    "CalibrationStats": "core.stats",
    "Comparison": "comparison.result",
    "Mask": "core.mask",
    "Model": "models.model",
    "ModelGraph": "core.graph",
    "Scores": "core.scores",
    "calibrate": "calibration.forward",
    "compare": "comparison.agreement",
    "evaluate": "evaluation.evaluate",
    "export": "extraction.export",
    "load_model": "models.load",
    "prune": "pruning",
    "score": "scorers",
    "study": "steps.studying",
}
__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'graphprune' has no attribute {name!r}")
    return getattr(import_module(f"graphprune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
