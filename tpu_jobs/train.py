"""Trains a model as a gin file says, and evaluates it.

    python -m tpu_jobs.train --gin_file=gin/runs/quickstart.gin --workdir=runs/quickstart

The same command started again goes on from the last checkpoint.
"""

import os
import time

import gin
import tensorflow as tf
from absl import app, flags, logging

from limoe_tf.data.bad_records import BadRecords
from limoe_tf.evaluate import results
from limoe_tf.evaluate.callback import EvaluateCallback
from limoe_tf.train.callbacks import ProgressLine, SaveCheckpoint, ScalarLog
from limoe_tf.train.checkpoint import Checkpoints
from tpu_jobs import experiment as experiments

_GIN_FILE = flags.DEFINE_multi_string("gin_file", [], "gin file of the run; may be given again")
_GIN_PARAM = flags.DEFINE_multi_string("gin_param", [], "one more binding: 'Name.argument = value'")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of checkpoints, logs and results")


def train(experiment, workdir):
    """Trains, goes on if there is a checkpoint, evaluates, and writes `results.json`.

    Args:
      experiment: `experiment.Experiment`.
      workdir: folder of the run.

    Returns:
      dict of the results.
    """
    start = time.time()
    vocabulary = experiment.load_vocabulary(workdir)
    model = experiment.model
    model.compile(
        experiment.optimizer,
        loss_weights=experiment.loss_weights,
        detailed_logs=True,
        jit_compile=experiment.jit_compile,
    )
    checkpoints = Checkpoints(model, os.path.join(workdir, "checkpoints"))
    step = checkpoints.restore_latest()
    print(f"{model.count_params():,} parameters; starting at step {step}", flush=True)
    bad_records = BadRecords()
    if step < experiment.steps:
        batches = experiment.training_batches(
            experiment.train_source,
            vocabulary=vocabulary,
            batch_size=experiment.batch_size,
            image_size=model.image_size,
            seed=experiment.seed,
            start_step=step,
            bad_records=bad_records,
        )
        model.fit(
            batches,
            steps_per_epoch=experiment.steps - step,
            verbose=1,
            callbacks=_callbacks(experiment, vocabulary, checkpoints, workdir),
        )
        print(bad_records.report(), flush=True)
    seconds_of_training = time.time() - start
    print("Evaluating ...", flush=True)
    found = experiment.run_tasks(vocabulary)
    found["parameters"] = sum(int(v.value.shape.num_elements()) for v in model.trainable_variables)
    found["step"] = experiment.steps
    found["seconds_of_training"] = round(seconds_of_training, 1)
    found["seconds"] = round(time.time() - start, 1)
    results.write_json(os.path.join(workdir, "results.json"), found)
    print(results.markdown_table(found), flush=True)
    return found


def _callbacks(experiment, vocabulary, checkpoints, workdir):
    shown = ["loss", "accuracy"]
    if "sparse" in experiment.model.plan:
        shown += ["success_rate_image", "success_rate_text"]
    callbacks = [
        ProgressLine(shown, batch_size=experiment.batch_size),
        SaveCheckpoint(checkpoints, every_steps=experiment.checkpoint_every_steps),
        ScalarLog(workdir, every_steps=experiment.log_every_steps),
    ]
    if experiment.evaluate_every_steps is not None:
        tasks = {
            name: lambda model, task=task: task(model, vocabulary)
            for name, task in experiment.tasks.items()
        }
        evaluation = EvaluateCallback(tasks, every_steps=experiment.evaluate_every_steps)
        callbacks.insert(0, evaluation)
    return callbacks


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Flags only. Received: {argv[1:]}")
    if not _GIN_FILE.value:
        raise app.UsageError("--gin_file is needed: the run to train")
    logging.set_verbosity(logging.WARNING)
    experiments.parse(_GIN_FILE.value, _GIN_PARAM.value)
    experiments.set_seed()
    experiment = experiments.build()
    tf.io.gfile.makedirs(_WORKDIR.value)
    with tf.io.gfile.GFile(os.path.join(_WORKDIR.value, "config.gin"), "w") as file:
        file.write(gin.operative_config_str())
    train(experiment, _WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main)
