"""Compares what a run begins with, and the two contrastive losses, on the embedded dataset.

    .venv/bin/python -m benchmarks.starts [--steps=500] [--folder=runs/starts] [--only upcycling]

* upcycling: a dense `tiny` of some steps, and as many more of it, dense or upcycled;
* resolution: the first evaluation of that dense model with images of 96 pixels instead of 64, with
  its positions interpolated and with new ones;
* loss: the quickstart with the softmax and with the sigmoid loss.

Each run is a job in a folder of its own. Started again, it goes on where it was ended.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import jobs, timing
from limoe_tf.evaluate.results import flatten
from limoe_tf.train.callbacks import read_records
from limoe_tf.train.init_from import init_from
from tpu_jobs import gin_files

QUICKSTART = "gin/runs/quickstart.gin"
LARGER = "limoe.Limoe.from_size.image_size = 96"
DENSE = 'limoe.Limoe.from_size.plan = ("dense", "dense", "dense", "dense")'
NORMALIZED = "limoe.Limoe.from_size.normalize_gates = True"
TWO_CHOICES = "limoe.Limoe.from_size.num_choices = 2"
RESULTS = {
    "zero-shot, seen": "zero_shot/seen",
    "unseen": "zero_shot/unseen",
    "text to image, recall at 1": "retrieval/text_to_image/recall_at_1",
    "image to text": "retrieval/image_to_text/recall_at_1",
}
TABLES = {
    "upcycling": (
        "dense", "dense_more", "upcycled", "upcycled_normalized", "upcycled_two_choices",
    ),
    "resolution": ("dense",),
    "loss": ("softmax", "sigmoid"),
}  # fmt: skip


def bindings_of(folder: pathlib.Path, steps: int) -> dict[str, list[str]]:
    """Returns the lines of gin, by name, of each run of that many steps.

    Args:
      folder: where the runs go, each in a folder of its name.
      steps: of each run.
    """
    begun = begin_with(folder / "dense")
    runs = {
        "dense": [DENSE],
        "dense_more": [DENSE, *begun],
        "upcycled": begun,
        "upcycled_normalized": [*begun, NORMALIZED],
        "upcycled_two_choices": [*begun, NORMALIZED, TWO_CHOICES],
        "softmax": [],
        "sigmoid": ['limoe.Limoe.from_size.contrastive = "sigmoid"'],
    }
    shared = [
        f"STEPS = {steps}",
        f"schedule.Cosine.warmup_steps = {min(100, steps // 5)}",
        "experiment.Experiment.log_every_steps = 1",
        "experiment.Experiment.checkpoint_every_steps = 100",
    ]
    return {name: [*shared, *lines] for name, lines in runs.items()}


def begin_with(run: pathlib.Path) -> list[str]:
    """Returns the lines of gin of a run that begins with the weights of another."""
    return [
        f"experiment.Experiment.init_from = {json.dumps(str(run))}",
        f"experiment.Experiment.vocabulary = {json.dumps(str(run / 'vocabulary.model'))}",
    ]


def train(folder: pathlib.Path, name: str, lines: Sequence[str], steps: int) -> None:
    """Trains a run to its end, if it is not there yet.

    Args:
      folder: where the runs go.
      name: of the run.
      lines: of gin.
      steps: of the run.

    Raises:
      RuntimeError: if it fails.
    """
    if jobs.results_of(folder / name, steps) is None:
        print(f"{name} ...", flush=True)
        jobs.train(QUICKSTART, lines, folder / name, name=name, steps=steps)


def first_evaluations(folder: pathlib.Path, lines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Evaluates the dense model with larger images, without training; once.

    Args:
      folder: where the run `dense` is, and `resolution.json` goes.
      lines: of gin, of that run.

    Returns:
      dict of results by what was done with the positions.
    """
    path = folder / "resolution.json"
    if path.exists():
        return json.loads(path.read_text("utf-8"))
    gin_files.parse([QUICKSTART], [*lines, LARGER, *begin_with(folder / "dense")])
    experiment = gin_files.build()
    positions = experiment.model.image_embed.positions
    drawn, found = positions.numpy(), {}
    init_from(experiment.model, folder / "dense")
    vocabulary = experiment.load_vocabulary(str(folder), weights=str(folder / "dense"))
    found["96 pixels, interpolated"] = experiment.run_tasks(vocabulary)
    positions.assign(drawn)
    found["96 pixels, not interpolated"] = experiment.run_tasks(vocabulary)
    path.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return found


def of_run(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """Returns the results of a run, with the losses of its first and of its last steps."""
    records = read_records(str(folder / name / "metrics.jsonl"))
    losses = [record["contrastive"] for record in records]
    last = losses[-max(1, len(losses) // 10) :]
    results = json.loads((folder / name / "results.json").read_text("utf-8"))
    return {**results, "first_loss": losses[0], "last_loss": float(np.mean(last))}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns results by name as a table in Markdown."""
    rows = []
    for name, results in found.items():
        numbers = flatten(results)
        losses = [numbers.get("first_loss"), numbers.get("last_loss")]
        shown = ["" if loss is None else f"{loss:.3f}" for loss in losses]
        shown += [f"{numbers[key]:.1%}" for key in RESULTS.values()]
        rows.append([name, *shown])
    return timing.grid(["", "first loss", "last tenth", *RESULTS], rows)


def measure(
    folder: pathlib.Path, *, only: Sequence[str], steps: int, lines: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Makes the tables, prints each, and writes their numbers to `starts.json`.

    Args:
      folder: where runs go, those of each number of steps in a folder of their own.
      only: names among `TABLES`.
      steps: of each run.
      lines: more lines of gin, of all runs.

    Returns:
      dict by table of dicts of results by row.
    """
    folder = folder / str(steps)
    folder.mkdir(parents=True, exist_ok=True)
    runs, found = bindings_of(folder, steps), {}
    runs = {name: [*own, *lines] for name, own in runs.items()}
    for name in only:
        for run in TABLES[name]:
            train(folder, run, runs[run], steps)
        found[name] = {run: of_run(folder, run) for run in TABLES[name]}
        if name == "resolution":
            found[name].update(first_evaluations(folder, runs["dense"]))
        print(f"\n## {name}, runs of {steps} steps\n\n{table(found[name])}\n", flush=True)
    (folder / "starts.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500, help="steps of each run")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/starts"))
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    options = parser.parse_args()
    measure(options.folder, only=options.only, steps=options.steps)


if __name__ == "__main__":
    main()
