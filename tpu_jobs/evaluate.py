"""Evaluates a checkpoint of a run: with the tasks of the run, or with those of a gin file.

    python -m tpu_jobs.evaluate --workdir=runs/quickstart
    python -m tpu_jobs.evaluate --workdir=runs/mine --gin_file=gin/evaluate/three_sets.gin ...

Writes `evaluation.json`, `evaluation.md` and, in `evaluation/`, TensorBoard events.
"""

import os
import time
from typing import Any

from absl import app, flags

from limoe_tf import companions
from limoe_tf.evaluate import provenance, results, run_tasks
from tpu_jobs import errors, evaluation, usage
from tpu_jobs.experiment import Experiment

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "a checkpoint other than the newest")


def evaluate(
    experiment: Experiment,
    workdir: str,
    *,
    checkpoint: str | None = None,
    gin_texts: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Restores the weights, runs the tasks, and prints and writes the results.

    Args:
      experiment: `experiment.Experiment`.
      workdir: folder of the run.
      checkpoint: path of a checkpoint; None takes the newest of the run.
      gin_texts: dict of the gin configurations of the experiment, stored with the results.

    Returns:
      dict of the results.

    Raises:
      ValueError: if there is no checkpoint, or it or the vocabulary does not match the model; at
        the end, with all results written, if some tasks have failed.
      OSError: if the checkpoint cannot be read.
    """
    start = time.time()
    step, checkpoint = evaluation.restore(experiment.model, workdir, checkpoint)
    vocabulary = experiment.load_vocabulary(workdir, weights=checkpoint)
    experiment.load_codebook(workdir, weights=checkpoint)
    found = experiment.run_tasks(vocabulary)
    results.write_scalars(os.path.join(workdir, "evaluation"), found, step=step)
    found["step"] = step
    found["seconds"] = round(time.time() - start, 1)
    table = results.markdown_table(found)
    results.write_text(os.path.join(workdir, "evaluation.md"), table + "\n")
    to_repeat = {
        "checkpoint": checkpoint,
        "companions": companions.of(experiment.model),
        **provenance.of_code(),
        "tasks": {name: provenance.of_task(task) for name, task in experiment.tasks.items()},
        "gin": gin_texts,
    }
    results.write_json(os.path.join(workdir, "evaluation.json"), {**found, "to_repeat": to_repeat})
    print(table, flush=True)
    run_tasks.raise_failed(found)
    return found


@errors.in_one_line
def main():
    experiment, workdir, gin_texts = evaluation.read()
    evaluate(experiment, workdir, checkpoint=_CHECKPOINT.value, gin_texts=gin_texts)


if __name__ == "__main__":
    app.run(main, flags_parser=usage.parse_flags)
