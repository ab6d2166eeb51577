"""A whole train step, sparse against dense: time, parameters and memory."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from benchmarks import memory, models, timing
from benchmarks.models import DENSE, KINDS
from limoe_tf.train.step import differentiate

REMARKS = """\
float32. A step is that of `fit`: forward, losses, gradients, clipping, Adafactor, and the logs of
all layers. The sparse model has experts in every second block, K = 1; the dense one is the same
tower without experts. Both are timed interleaved. Milliseconds are medians over rounds; ratios are
taken within rounds, and given as median (quartiles), "processor" in processor time, which other
work on the machine disturbs less. "gradients" is a step without clipping and Adafactor, relative to
the whole dense step. "peak" is the largest resident memory of a new process that runs 3 steps,
"growth" its increase since before the first of them.
"""


def measure(
    *, rounds: int, progress: Callable, cases: Sequence[models.Case] = (models.TINY, models.S16)
) -> timing.Table:
    """Times train steps, and measures their memory.

    Args:
      rounds: how often each is measured.
      progress: called with text to show.
      cases: of type `models.Case`.

    Returns:
      `timing.Table` with a row for each model.
    """
    records = []
    for case in cases:
        progress(f"{case.name} ")
        records += _compare(case, rounds, progress)
    return timing.Table(
        title="Train step, sparse and dense",
        remarks=REMARKS,
        columns=[
            "model", "experts", "pairs", "tokens", "parameters, M", "ms", "ratio to dense",
            "processor", "gradients", "peak, MB", "growth, MB",
        ],
        rows=[_row(record) for record in records],
        records=records,
    )  # fmt: skip


def step_of(case: models.Case, kind: str) -> Callable:
    """Returns the train step of a new model on a batch, as a function without arguments."""
    model = models.compiled(case, kind)
    return _on_a_batch(model.train_step, model, case)


def _on_a_batch(function, model, case):
    batch = models.random_batch(model, case.batch_size)
    function = tf.function(function, autograph=False)
    return lambda: function(batch)


def _gradients_of(model):
    return lambda batch: differentiate(model, batch, model.loss_weights)


def _compare(case, rounds, progress):
    # Before this process has models of its own.
    taken = {kind: memory.of_steps(step_of, case, kind) for kind in KINDS}
    pair = {kind: models.compiled(case, kind) for kind in KINDS}
    steps = {}
    for kind, model in pair.items():
        steps[kind] = _on_a_batch(model.train_step, model, case)
        steps[kind, "gradients"] = _on_a_batch(_gradients_of(model), model, case)
    times = timing.interleaved(steps, rounds=rounds, after_round=lambda: progress("."))
    progress("\n")
    return [
        {
            "model": case.name,
            "experts": 0 if kind == DENSE else case.values["num_experts"],
            "pairs": case.batch_size,
            "tokens": case.tokens,
            "parameters": model.num_parameters,
            **timing.compared(times[kind], times[DENSE]),
            "gradients": timing.spread(times[kind, "gradients"].wall / times[DENSE].wall),
            "bytes": taken[kind],
        }
        for kind, model in pair.items()
    ]


def _row(record):
    """Returns a record as the text of a row."""
    taken = record["bytes"]
    return [
        record["model"],
        str(record["experts"]),
        str(record["pairs"]),
        str(record["tokens"]),
        f"{record['parameters'] / 1e6:.1f}",
        f"{record['milliseconds']['median']:.0f}",
        timing.shown(record["ratio"]),
        timing.shown(record["processor_ratio"]),
        timing.shown(record["gradients"]),
        f"{taken['peak'] / 1e6:.0f}",
        f"{(taken['peak'] - taken['before']) / 1e6:.0f}",
    ]
