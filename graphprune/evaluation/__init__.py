"""What pruning cost: quality and size."""

from graphprune.evaluation.evaluate import EvalReport as EvalReport
from graphprune.evaluation.evaluate import evaluate as evaluate
