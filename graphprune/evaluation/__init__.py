"""What pruning cost: quality and size."""

from graphprune.evaluation.evaluate import EvalReport as EvalReport
from graphprune.evaluation.evaluate import evaluate as evaluate
from graphprune.evaluation.tasks import Task as Task
from graphprune.evaluation.tasks import TaskScore as TaskScore
from graphprune.evaluation.tasks import find_tasks as find_tasks
from graphprune.evaluation.tasks import zero_shot as zero_shot
