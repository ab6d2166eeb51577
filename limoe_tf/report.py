"""The Report: the losses and metrics that a layer returns with its output."""

from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf


class Report(NamedTuple):
    """Named losses and metrics of one forward pass.

    Parents prefix the names of their parts (`block_05/importance`); they never rename or sum.

    Attributes:
      losses: dict of <float32>[]; each name needs a weight in the total loss.
      metrics: dict of <float32>[], or <float32>[E] for counts per expert; per token where a sparse
        layer has `reports_tokens` set.
    """

    losses: dict[str, tf.Tensor]
    metrics: dict[str, tf.Tensor]


def empty() -> Report:
    """Returns a Report without any entry."""
    return Report({}, {})


def prefixed(prefix: str, report: Report) -> Report:
    """Returns `report` with `prefix/` before every name."""
    return Report(
        {f"{prefix}/{name}": value for name, value in report.losses.items()},
        {f"{prefix}/{name}": value for name, value in report.metrics.items()},
    )


def merged(reports: Iterable[Report]) -> Report:
    """Returns one Report of all entries.

    Args:
      reports: iterable of Report.

    Raises:
      ValueError: if two reports use one name.
    """
    losses, metrics = {}, {}
    for part in reports:
        for target, source in ((losses, part.losses), (metrics, part.metrics)):
            twice = sorted(target.keys() & source.keys())
            if twice:
                raise ValueError(f"Reports must not share names. Received: twice={twice}")
            target.update(source)
    return Report(losses, metrics)


def mean_success_rates(report: Report) -> dict[str, tf.Tensor]:
    """Returns the success rates of each stream, such as `success_rate_text`, averaged over layers.

    Args:
      report: of a model whose sparse layers report them.
    """
    rates = {}
    for name, value in report.metrics.items():
        kind = name.rsplit("/", 1)[-1]
        if kind.startswith("success_rate_"):
            rates.setdefault(kind, []).append(value)
    return {kind: tf.add_n(values) / len(values) for kind, values in rates.items()}
