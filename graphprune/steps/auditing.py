"""The audit of a run folder: is each scorer what it says it is? Verdicts are kept in ``RUN/audits``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphprune.calibration.forward import site_sizes
from graphprune.comparison.audit import (
    Verdict,
    baselines_of,
    equals_baseline,
    flips,
    loses_to_random,
    mostly_depth,
    switched_off,
)
from graphprune.comparison.consequence import Series
from graphprune.core.errors import InputError
from graphprune.core.io import digest, file_digest, write_json
from graphprune.core.run import Run, checked_name
from graphprune.core.scores import Scores
from graphprune.core.stats import VERSION as STATS_VERSION
from graphprune.core.stats import CalibrationStats
from graphprune.models.model import Model
from graphprune.scorers import SCORERS, make_scorer
from graphprune.scorers.inputs import ScoringInputs
from graphprune.steps.consequences import Laboratory, Measured, units_of
from graphprune.steps.kept import all_scores, calibration_of, loaded_scores, model_of, named_scores
from graphprune.steps.pipeline import Calibration, score_step

AUDIT_FORMAT, AUDIT_VERSION = "graphprune.audit", 1


def audit_step(
    run: Run,
    names: Sequence[str] = (),
    *,
    sparsity: float = 0.2,
    measured: Measured | None = None,
    name: str = "audit",
) -> dict[str, Any]:
    """Verdicts on the run's scorers to ``RUN/audits``.

    Args:
        run: its folder.
        names: of score files, as for `compare_step`.
        sparsity: at which masks are compared.
        measured: a text, to measure scorers against random removal.
        name: of the audit.

    Raises:
        InputError: scores are missing, or the run's model is.
        FormatError: a file is damaged, or of another model.
    """
    measured = measured or Measured()
    measured.check()
    files, left_out = named_scores(run, names) if names else all_scores(run)
    if not files:
        raise InputError(f"{run.folder} has no scores of heads or neurons; `graphprune score` makes some")
    paths = [run.scores_path(each) for several in files.values() for each in several]
    inputs = digest([files, [file_digest(path) for path in paths], sparsity, measured.key()])
    if (found := run.finished(f"audit {name}", inputs)) is not None:
        return found | {"found": True}
    path = run.folder / "audits" / f"{checked_name(name)}.json"
    with run.recording(f"audit {name}", inputs, {"scores": files, "sparsity": sparsity}) as record:
        auditor = Auditor(run, model_of(run), sparsity, measured)
        verdicts = [vars(verdict) for verdict in auditor.verdicts(files)]
        write_json(path, {"format": AUDIT_FORMAT, "version": AUDIT_VERSION, "sparsity": sparsity, "verdicts": verdicts})
        record.outputs.append(path)
        record.result.update(verdicts=verdicts, flagged=sum(v["flagged"] is True for v in verdicts))
        record.result.update(left_out=left_out, audit=str(path))
    return record.result


@dataclass(frozen=True)
class Auditor:
    """What an audit of a run's scorers goes by.

    Attributes:
        run: the run folder.
        model: its model.
        sparsity: at which masks are compared.
        measured: what the model is judged on.
    """

    run: Run
    model: Model
    sparsity: float
    measured: Measured

    def verdicts(self, files: Mapping[str, Sequence[str]]) -> Iterator[Verdict]:
        """All checks of all scorers, whose files are given by label."""
        for label, names in files.items():
            scores = [loaded_scores(self.run, name) for name in names]
            stats = self._stats(names[0])
            yield equals_baseline(label, scores[0], baselines_of(self.model, stats))
            if scores[0].method != "random":
                yield loses_to_random(label, self.sparsity, *self._perplexities(names[0], scores[0]))
            blind = calibration_of(self.run, names[0]) == {}
            yield flips(label, [] if blind else scores, self.sparsity)
            texts = [] if blind else self._by_text(label, files)
            yield flips(label, texts, self.sparsity, check="text")
            yield mostly_depth(label, scores[0])
            yield self._switch(label, names[0], scores[0], stats)

    def _stats(self, name: str) -> CalibrationStats | None:
        """The statistics that scores were made with, if the run still has them."""
        calibration = calibration_of(self.run, name)
        if not calibration:
            return None
        path = self.run.stats_path(digest([self.model.identity, calibration, STATS_VERSION]))
        if not path.is_file():
            return None
        return CalibrationStats.load(path, site_sizes(self.model), self.model.identity)

    def _perplexities(self, name: str, scores: Scores) -> tuple[float | None, float | None]:
        """Of the model pruned by a scorer, and by chance, every layer alike and nothing repaired."""
        if self.measured.text is None:
            return None, None
        calibration = Calibration(None)
        laboratory = Laboratory(self.run, self.model, calibration, self.measured)
        score_step(self.model, self.run, scorer="random", calibration=calibration)
        units = units_of({name: scores})
        found = [laboratory.of(Series(each), self.sparsity, each, units).quality for each in (name, "random")]
        return found[0]["perplexity"], found[1]["perplexity"]

    def _by_text(self, label: str, files: Mapping[str, Sequence[str]]) -> list[Scores]:
        """The scores of a scorer with the same options, one for each text that it was calibrated on."""
        ours = loaded_scores(self.run, files[label][0])
        texts: dict[object, Scores] = {None: ours}
        for names in (files[label], *files.values()):
            calibration, scores = calibration_of(self.run, names[0]), loaded_scores(self.run, names[0])
            if calibration and (scores.method, dict(scores.options)) == (ours.method, dict(ours.options)):
                texts.pop(None, None)
                texts.setdefault(calibration.get("text"), scores)
        return list(texts.values())

    def _switch(self, label: str, name: str, scores: Scores, stats: CalibrationStats | None) -> Verdict:
        if scores.method not in SCORERS:
            return Verdict(label, "switch", None, None, f"wasn't asked again: {scores.method} is no scorer of one pass")
        scorer = make_scorer(scores.method, **scores.options)
        if scorer.needs_gradients:
            return Verdict(label, "switch", None, None, "wasn't asked again: that takes the gradients of the loss")
        if scorer.needs_stats and stats is None:
            why = f"the statistics that {name} was made with are not in the run; score it again"
            return Verdict(label, "switch", None, None, f"wasn't asked again: {why}")
        return switched_off(label, scorer, ScoringInputs(self.model, stats))
