"""Training jobs as processes of their own, for benchmarks that train whole runs."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from limoe_tf.train.callbacks import read_records

ROOT = pathlib.Path(__file__).resolve().parents[1]
_SECONDS_BETWEEN_LINES = 30


def start(gin_file: str, bindings: Sequence[str], workdir: os.PathLike) -> subprocess.Popen:
    """Starts the training job in a process of its own."""
    command = [sys.executable, "-m", "tpu_jobs.train", f"--gin_file={gin_file}"]
    command += [f"--workdir={workdir}", *(f"--gin_param={line}" for line in bindings)]
    with open(f"{workdir}.log", "ab") as log:
        # A shell's jobs in the background ignore SIGINT, and so would what they start.
        return subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def end_of_log(workdir: os.PathLike) -> str:
    """Returns the end of what the job of a folder has printed."""
    return pathlib.Path(f"{workdir}.log").read_text("utf-8", errors="replace")[-2000:]


def results_of(workdir: pathlib.Path, steps: int) -> dict[str, Any] | None:
    """Returns the results of a run of so many steps, or None if it has not come to its end."""
    path = workdir / "results.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found if found.get("step") == steps else None


def train(
    gin_file: str, bindings: Sequence[str], workdir: pathlib.Path, *, name: str, steps: int
) -> None:
    """Trains a run to its end, from where it was ended, and prints how far it is.

    Args:
      gin_file: configuration of the run.
      bindings: more lines of gin.
      workdir: folder of the run.
      name: of the run, in what is printed.
      steps: of the run.

    Raises:
      RuntimeError: if it fails.
    """
    process = start(gin_file, bindings, workdir)
    begun, first = time.monotonic(), None
    while True:
        try:
            code = process.wait(_SECONDS_BETWEEN_LINES)
            break
        except subprocess.TimeoutExpired:
            records = read_records(str(workdir / "metrics.jsonl"))
            step = records[-1]["step"] if records else 0
            if first is None and step:  # What came before was not trained now.
                begun, first = time.monotonic(), step
            print(f"  {name}: {_progress(step, first, steps, begun)}", flush=True)
        except BaseException:
            process.terminate()  # The job writes a checkpoint and ends.
            process.wait()
            raise
    if code:
        raise RuntimeError(f"The run {name} failed: {end_of_log(workdir)}")


def _progress(step, first, steps, begun):
    if not step or step == first:
        return f"step {step} of {steps}"
    minutes = (steps - step) * (time.monotonic() - begun) / (step - first) / 60
    return f"step {step} of {steps}, {minutes:.0f} minutes left"
