"""Recognisers beside a control: differences of their accuracies on the same recordings, with intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightword.engine.evaluation import evaluate_command, read_evaluation
from sightword.engine.item_result import ItemResults
from sightword.errors import SightwordError
from sightword.metrics.bootstrap import Interval, drawn_values, interval_of


class Beside(NamedTuple):
    """A run beside a control."""

    run: Path
    top1: float  # of the run, percent
    difference: Interval  # the run's top-1 less the control's, in points

    @property
    def verdict(self) -> str:
        """Which of the two is better, if the interval does not hold 0."""
        if self.difference.low > 0:
            return "better than the control"
        return "worse than the control" if self.difference.high < 0 else "not told apart from the control"

    def plain(self) -> dict[str, object]:
        """Return the values for JSON."""
        value, low, high = (round(each, 2) for each in self.difference)
        return {"run": str(self.run), "top1": self.top1, "difference": value, "interval": [low, high]}

    def line(self) -> str:
        """Return the comparison as it is printed."""
        value, low, high = self.difference
        return f"  {self.run}: top1 {self.top1:.4g} %, {value:+.1f} points [{low:+.1f}, {high:+.1f}], {self.verdict}"


def compare(control: ItemResults, digest: str, runs: Sequence[Path]) -> list[Beside]:
    """Compare evaluated runs with a control's results on test. digest: of the control's recordings and labels.

    Raises SightwordError for a run that was not evaluated on test, or on other recordings.
    """
    return [_compared(control, digest, run) for run in runs]


def _compared(control: ItemResults, digest: str, run: Path) -> Beside:
    evaluation = read_evaluation(run, "test")
    if evaluation is None:
        raise SightwordError(f"beside={run} has no evaluation of test. Write it first: {evaluate_command(run, 'test')}")
    own = evaluation.items
    if own.digest != control.digest or (evaluation.data_digest and evaluation.data_digest != digest):
        raise SightwordError(
            f"beside={run} was evaluated on {len(own.id)} recordings that are not these {len(control.id)}, or have "
            "other labels. Pass its own annotations= and test="
        )
    ours, theirs = (_right(each) for each in (control, own))
    drawn = drawn_values([lambda weights: 100 * (weights @ (theirs - ours)) / weights.sum(1)], control.cluster)
    return Beside(run, 100 * float(theirs.mean()), interval_of([100 * float((theirs - ours).mean())], drawn))


def _right(items: ItemResults) -> np.ndarray:
    """Whether each recording is predicted correctly, (N,) float64."""
    found: np.ndarray = (items.arrays["predicted"] == items.arrays["label"]).astype(np.float64)
    return found
