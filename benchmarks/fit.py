"""`fit` with the callbacks of the training job, against a bare loop around the same step."""

import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks import models, timing
from limoe_tf.train.callbacks import ProgressLine, SaveCheckpoint, ScalarLog
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.preemption import StopOnSignal
from limoe_tf.train.watch import CollapseWatch, StopWhenSkipping

LOOP, FIT = "bare loop", "`fit`"
STEPS = 10
REMARKS = f"""\
An epoch of {STEPS} steps of one model on one dataset, from its begin to its end. "{FIT}" has the
callbacks that the training job always has, and logs each {STEPS}th step; "{LOOP}" passes batches to
the model's train step as a `tf.function`, and reads no logs. Both are timed interleaved.
Milliseconds of a step are medians over rounds; ratios are taken within rounds, and given as median
(quartiles), "processor" in processor time.
"""


def measure(*, rounds: int, progress: Callable, case: models.Case = models.TINY) -> timing.Table:
    """Times an epoch of `fit` and one of the loop.

    Args:
      rounds: how often each is measured.
      progress: called with text to show.
      case: `models.Case`; the shorter its step, the more visible is the overhead.

    Returns:
      `timing.Table` with a row for each of the two.
    """
    progress(f"{case.name} ")
    with tempfile.TemporaryDirectory() as folder:
        times = timing.interleaved(
            _epochs(models.compiled(case, models.SPARSE), case.batch_size, folder),
            rounds=rounds,
            turn=lambda epoch, _: epoch(),
            after_round=lambda: progress("."),
        )
    progress("\n")
    records = [
        {"model": case.name, "pairs": case.batch_size, "form": name, "steps": STEPS}
        | timing.compared(own, times[LOOP])
        for name, own in times.items()
    ]
    return timing.Table(
        title="`fit` and a bare loop around the same step",
        remarks=REMARKS,
        columns=["model", "pairs", "form", "step, ms", "ratio", "processor"],
        rows=[_row(record) for record in records],
        records=records,
    )


class _Clock(keras.callbacks.Callback):
    """Times an epoch, without what `fit` does before and after it."""

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = _now()

    def on_epoch_end(self, epoch, logs=None):
        self.passed = _now() - self._begin


def _now():
    return np.array([time.perf_counter(), time.process_time()])


def _epochs(model, batch_size, folder):
    """Returns functions that run an epoch and return the two times of a step, by name."""
    batches = tf.data.Dataset.from_tensors(models.random_batch(model, batch_size)).repeat(STEPS)
    options = tf.data.Options()
    # As `training_batches`; also, the autotuning thread can delay a dataset's end for seconds.
    options.autotune.enabled = False
    batches = batches.with_options(options)
    step = tf.function(model.train_step, autograph=False)
    clock, callbacks = _Clock(), _callbacks(model, batch_size, folder)

    def loop():
        begin = _now()
        for batch in batches:
            step(batch)
        return (_now() - begin) / STEPS

    def fit():
        model.fit(batches, verbose=0, shuffle=False, callbacks=[clock, *callbacks])
        return clock.passed / STEPS

    return {LOOP: loop, FIT: fit}


def _callbacks(model, batch_size, folder):
    checkpoints = Checkpoints(model, f"{folder}/checkpoints")
    return [
        ProgressLine(batch_size=batch_size),
        StopWhenSkipping(),
        SaveCheckpoint(checkpoints, every_steps=1000),
        ScalarLog(folder, every_steps=STEPS),
        CollapseWatch(),
        StopOnSignal(checkpoints),
    ]


def _row(record):
    """Returns a record as the text of a row."""
    return [
        record["model"],
        str(record["pairs"]),
        record["form"],
        f"{record['milliseconds']['median']:.1f}",
        timing.shown(record["ratio"]),
        timing.shown(record["processor_ratio"]),
    ]
