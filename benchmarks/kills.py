"""Kills a run at random moments, restarts it each time, and compares the last checkpoints.

    .venv/bin/python -m benchmarks.kills [--kills=20] [--seed=0]

SIGKILL, SIGTERM and SIGINT take turns in an order drawn at random; every fourth one happens while a
checkpoint is written. The last checkpoint must equal that of an undisturbed run to the bit.
"""

import argparse
import os
import pathlib
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks import jobs
from limoe_tf.train.callbacks import read_records
from limoe_tf.train.preemption import exit_code

STEPS = 200
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
BINDINGS = [
    f"STEPS = {STEPS}",
    "BATCH_SIZE = 16",
    "limoe.Limoe.from_size.width = 32",
    "limoe.Limoe.from_size.hidden_width = 64",
    "limoe.Limoe.from_size.depth = 2",
    'limoe.Limoe.from_size.plan = ("dense", "sparse")',
    "experiment.Experiment.checkpoint_every_steps = 5",
    "experiment.Experiment.log_every_steps = 1",
]


def compare(
    gin_file: str,
    bindings: Sequence[str],
    folder: str | os.PathLike,
    *,
    kills: int,
    seed: int,
    steps: int,
    progress: Callable = print,
) -> list[str]:
    """Runs once without and once with kills.

    Args:
      gin_file: configuration of the run.
      bindings: more lines of gin.
      folder: where the two runs write.
      kills: how often the second is killed.
      seed: of the moments.
      steps: of a whole run.
      progress: called with a line to show.

    Returns:
      List of lines, one per kill.

    Raises:
      RuntimeError: if a run fails by itself, or the two end with different checkpoints.
    """
    folder = pathlib.Path(folder)
    whole, killed = folder / "whole", folder / "killed"
    _to_the_end(jobs.start(gin_file, bindings, whole), whole)
    draw, done = random.Random(seed), []
    for number in range(kills):
        process = jobs.start(gin_file, bindings, killed)
        # In order of the steps, so that there is always something left to kill.
        step = draw.randint(number * steps // (kills + 1), (number + 1) * steps // (kills + 1))
        while_saving = number % 4 == 1
        _wait_for(process, killed, step, while_saving)
        if number % len(SIGNALS) == 0:
            turns = draw.sample(SIGNALS, len(SIGNALS))
        number_of_signal = turns[number % len(SIGNALS)]
        process.send_signal(number_of_signal)
        code = process.wait()
        # A signal that comes outside of training ends the process by itself.
        if code not in (exit_code(number_of_signal), -number_of_signal):
            name = signal.Signals(number_of_signal).name
            raise RuntimeError(
                f"{name} ended the run with exit code {code}: {jobs.end_of_log(killed)}"
            )
        moment = "while a checkpoint was written" if while_saving else f"after step {step}"
        done.append(f"{signal.Signals(number_of_signal).name} {moment}, exit code {code}")
        progress(done[-1])
    _to_the_end(jobs.start(gin_file, bindings, killed), killed)
    _check_equal(whole, killed, steps)
    return done


def _wait_for(process, workdir, step, while_saving):
    """Waits until the run has logged a step, and optionally until it is writing a checkpoint."""
    path = str(workdir / "metrics.jsonl")
    _wait(process, workdir, lambda: any(r["step"] >= step for r in read_records(path)), 0.02)
    if while_saving:
        _wait(process, workdir, lambda: any(workdir.rglob("*_temp")), 0.001)


def _wait(process, workdir, happened, seconds):
    while not happened():
        if process.poll() is not None:
            raise RuntimeError(f"The run ended by itself: {jobs.end_of_log(workdir)}")
        time.sleep(seconds)


def _to_the_end(process, workdir):
    if process.wait():
        raise RuntimeError(f"The run failed: {jobs.end_of_log(workdir)}")


def _check_equal(whole, killed, steps):
    wanted, found = (
        tf.train.load_checkpoint(str(folder / "checkpoints" / f"ckpt-{steps}"))
        for folder in (whole, killed)
    )
    for name in wanted.get_variable_to_shape_map():
        of_run = name.startswith(("model/", "optimizer/", "seeds/", "run/"))
        if of_run and not np.array_equal(wanted.get_tensor(name), found.get_tensor(name)):
            raise RuntimeError(f"The killed run ended with another {name}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(
            "gin/runs/quickstart.gin", BINDINGS, folder,
            kills=options.kills, seed=options.seed, steps=STEPS,
        )  # fmt: skip
    print(f"After {options.kills} kills every variable is the same to the bit.")


if __name__ == "__main__":
    main()
