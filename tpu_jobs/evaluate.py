"""Evaluates a checkpoint with the tasks of its gin file.

    python -m tpu_jobs.evaluate --gin_file=gin/runs/quickstart.gin --workdir=runs/quickstart
"""

import os
import time

from absl import app, flags

from limoe_tf.evaluate import results
from limoe_tf.train.checkpoint import Checkpoints
from tpu_jobs import command, errors

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "a checkpoint other than the newest")


def evaluate(experiment, workdir, *, checkpoint=None):
    """Restores the weights, runs the tasks, prints a table and writes `evaluation.json`.

    Args:
      experiment: `experiment.Experiment`.
      workdir: folder of the run.
      checkpoint: path of a checkpoint; None takes the newest of the run.

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
    found["step"] = step
    found["seconds"] = round(time.time() - start, 1)
    results.write_json(os.path.join(workdir, "evaluation.json"), found)
    print(results.markdown_table(found), flush=True)
    return found


@errors.in_one_line
def main():
    evaluate(*command.read(), checkpoint=_CHECKPOINT.value)


if __name__ == "__main__":
    app.run(main)
