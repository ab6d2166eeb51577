"""Keras callbacks of a training run: a progress line, logs on disk, checkpoints."""

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.steps import StepCount, updates, was_skipped, with_experts


class ProgressLine(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with a few chosen logs, examples per second, and the time left.

    If the output is not a terminal, a new line is written every `seconds_between_lines`.

    Args:
      names: the logs to show, in this order; others are left out.
      batch_size: examples in a global batch.
      seconds_between_lines: seconds between two lines of a log file.
    """

    def __init__(
        self,
        names: Sequence[str] = ("loss",),
        *,
        batch_size: int,
        seconds_between_lines: float = 10.0,
    ):
        super().__init__()
        self.names = tuple(names)
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.seconds_between_lines = checks.number_in(
            "seconds_between_lines", seconds_between_lines, 0
        )

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.progbar = _ExamplesBar(
            self.target,
            names=self.names,
            batch_size=self.batch_size,
            epochs_after=self.epochs - epoch - 1,
            verbose=self.verbose,
            seconds_between_lines=self.seconds_between_lines,
        )

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, self._chosen(logs))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, self._chosen(logs))

    def _chosen(self, logs):
        missing = [name for name in self.names if name not in logs]
        if missing:
            raise ValueError(f"`names` must be among the logs {sorted(logs)}. Received: {missing}")
        return {name: logs[name] for name in self.names}


class _ExamplesBar(keras.utils.Progbar):
    """Keras' bar with examples per second and, before the last epoch, the time left in all."""

    def __init__(self, target, *, names, batch_size, epochs_after, verbose, seconds_between_lines):
        super().__init__(target, verbose=verbose, stateful_metrics=names)
        if not sys.stdout.isatty() and "ipykernel" not in sys.modules:
            self._dynamic_display = False
            self.interval = seconds_between_lines
        self._batch_size = batch_size
        self._epochs_after = epochs_after

    def _format_time(self, time_per_unit, unit_name):
        shown = super()._format_time(time_per_unit, unit_name)
        if time_per_unit > 0:
            shown += f" {self._batch_size / time_per_unit:.0f} examples/s"
        if self._epochs_after and self.target:
            steps = self.target * (self._epochs_after + 1) - self._seen_so_far
            hours, seconds = divmod(int(time_per_unit * steps), 3600)
            shown += f" {hours}:{seconds // 60:02d}:{seconds % 60:02d} left in all"
        return shown


class ScalarLog(keras.callbacks.Callback):
    """Writes the logs of every n-th step to TensorBoard and as a line of `metrics.jsonl`.

    A line holds `step` (updates of the optimizer), `seconds` of training so far, and all logs:
    numbers, and lists for logs with one value per expert. Values that are not finite are null. Logs
    that other callbacks add between two such steps (evaluations) are written at once, and those of
    the end of an epoch (validation) there. A run that is resumed from a checkpoint first drops the
    lines after that step.

    Args:
      directory: where the files are written, on this machine or in a bucket (`gs://`).
      every_steps: n; the last step of each n is logged.
    """

    def __init__(self, directory: str | os.PathLike, *, every_steps: int = 50):
        super().__init__()
        self.directory = os.fspath(directory)
        self.every_steps = checks.positive_int("every_steps", every_steps)
        self._path = os.path.join(self.directory, "metrics.jsonl")

    def on_train_begin(self, logs=None):
        self._start = time.time()
        self._file = None
        self._usual = set()
        self._written = {}

    def on_epoch_begin(self, epoch, logs=None):
        self._count = StepCount(self.model)
        if self._file is None:
            self._open(self._count.step)

    def _open(self, step):
        tf.io.gfile.makedirs(self.directory)
        records = [record for record in read_records(self._path) if record["step"] <= step]
        self._seconds_before = records[-1]["seconds"] if records else 0.0
        _replace(self._path, records)
        self._file = tf.io.gfile.GFile(self._path, "a")
        self._writer = tf.summary.create_file_writer(self.directory)

    def on_train_batch_end(self, batch, logs=None):
        logs = with_experts(self.model, logs)
        self._usual = self._usual or set(logs)
        self._count.advance()
        if self._count.passes(self.every_steps) or set(logs) - self._usual:
            self._write(logs)

    def on_epoch_end(self, epoch, logs=None):
        unusual = {name: value for name, value in logs.items() if name not in self._usual}
        news = {k: value for k, value in unusual.items() if (k, value) not in self._written.items()}
        if news:
            self._write(news)

    def on_train_end(self, logs=None):
        if self._file is not None:
            self._file.close()
            self._writer.close()

    def _write(self, logs):
        self._written.update((k, value) for k, value in logs.items() if k not in self._usual)
        values = {name: np.asarray(value) for name, value in logs.items()}
        step = self._count.step
        with self._writer.as_default(step):
            for name, value in values.items():
                if value.ndim == 0:
                    tf.summary.scalar(name, value)
                elif np.isfinite(value).all():
                    tf.summary.histogram(name, value)
        self._writer.flush()
        record = {
            "step": step,
            "seconds": round(self._seconds_before + time.time() - self._start, 3),
            **{name: _finite(value.tolist()) for name, value in values.items()},
        }
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()


class SaveCheckpoint(keras.callbacks.Callback):
    """Saves a checkpoint every n steps, unless that step was skipped, and at the end of training.

    So no checkpoint is of a step among those that are not finite, to which no run should roll back.

    Args:
      checkpoints: `limoe_tf.train.checkpoint.Checkpoints` of the model that is trained.
      every_steps: n.
    """

    def __init__(self, checkpoints: Checkpoints, *, every_steps: int):
        super().__init__()
        self.checkpoints = checkpoints
        self.every_steps = checks.positive_int("every_steps", every_steps)

    def on_train_begin(self, logs=None):
        self.checkpoints.check_writable()
        self._saved = updates(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self._count = StepCount(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self._count.advance()
        if self._count.passes(self.every_steps) and not was_skipped(logs):
            self._save()

    def on_train_end(self, logs=None):
        if updates(self.model) != self._saved:
            self._save()

    def _save(self):
        self.checkpoints.save()
        self._saved = updates(self.model)


def read_records(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the dicts of a file of JSON lines, if it exists; its last line may be incomplete.

    Other lines that are no records, with a `step` and `seconds`, are left out with a warning.
    """
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path, "rb") as file:
        lines = file.read().split(b"\n")
    records = [_record(line) for line in lines]
    damaged = [number for number, one in enumerate(records[:-1], 1) if one is None]
    if damaged:
        warnings.warn(f"{path!r} has lines that are no records: {damaged[:10]}", stacklevel=2)
    return [record for record in records if record is not None]


def _record(line):
    try:
        record = json.loads(line)
    except ValueError:  # UnicodeDecodeError is one, too.
        return None
    numbers = isinstance(record, dict) and [record.get("step"), record.get("seconds")]
    return record if numbers and all(isinstance(n, (int, float)) for n in numbers) else None


def _replace(path, records):
    """Writes `records` to `path` as JSON lines, atomically."""
    with tf.io.gfile.GFile(f"{path}.new", "w") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))
    tf.io.gfile.rename(f"{path}.new", path, overwrite=True)


def _finite(value):
    """Returns a number, or a list of them, with None for those that JSON cannot represent."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if math.isfinite(value) else None
