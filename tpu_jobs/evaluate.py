"""Evaluates a checkpoint of a run: with the run's own tasks, or with those of a gin file.

    python -m tpu_jobs.evaluate --workdir=runs/quickstart
    python -m tpu_jobs.evaluate --workdir=runs/mine --gin_file=gin/evaluate/three_sets.gin ...

Leaves `evaluation.json`, `evaluation.md` and, in `evaluation/`, TensorBoard events.
"""

import os
import time

from absl import app, flags

from limoe_tf.evaluate import provenance, results
from limoe_tf.train.checkpoint import Checkpoints
from tpu_jobs import errors, evaluation

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "a checkpoint other than the newest")


def evaluate(experiment, workdir, *, checkpoint=None, gin_texts=None):
    """Restores the weights, runs the tasks, prints a table, and writes it and all numbers.

    Args:
      experiment: `experiment.Experiment`.
      workdir: folder of the run.
      checkpoint: path of a checkpoint; None takes the newest of the run.
      gin_texts: what the experiment was made from, for the results.

    Returns:
      dict of the results.

    Raises:
      ValueError: if there is no checkpoint, or it or the vocabulary does not fit the model.
      OSError: if the checkpoint cannot be read.
    """
    start = time.time()
    folder = os.path.join(workdir, "checkpoints")
    checkpoints = Checkpoints(experiment.model, folder, weights_only=True)
    if checkpoint is None and checkpoints.latest is None:
        raise ValueError(f"`workdir` must hold a checkpoint. Received: workdir={workdir!r}")
    step = checkpoints.restore(checkpoint) if checkpoint else checkpoints.restore_latest()
    found = experiment.run_tasks(experiment.load_vocabulary(workdir))
    results.write_scalars(os.path.join(workdir, "evaluation"), found, step=step)
    found["step"] = step
    found["seconds"] = round(time.time() - start, 1)
    table = results.markdown_table(found)
    results.write_text(os.path.join(workdir, "evaluation.md"), table + "\n")
    to_repeat = {
        # The newest may have been passed over because it could not be read.
        "checkpoint": checkpoint or os.path.join(folder, f"ckpt-{step}"),
        **provenance.of_code(),
        "tasks": {name: provenance.of_task(task) for name, task in experiment.tasks.items()},
        "gin": gin_texts,
    }
    results.write_json(os.path.join(workdir, "evaluation.json"), {**found, "to_repeat": to_repeat})
    print(table, flush=True)
    return found


@errors.in_one_line
def main():
    experiment, workdir, gin_texts = evaluation.read()
    evaluate(experiment, workdir, checkpoint=_CHECKPOINT.value, gin_texts=gin_texts)


if __name__ == "__main__":
    app.run(main)
