"""Trains the model that a gin file describes, and evaluates it.

    python -m tpu_jobs.train --gin_file=gin/runs/quickstart.gin --workdir=runs/quickstart

The same command run again resumes from the last checkpoint. SIGTERM, Ctrl-C and SIGUSR1 stop it
with a checkpoint of the last step and exit code 143, 130 or 138; Ctrl-C twice ends it at once. Exit
code 1 is an error that running it again does not cure. With --tpu=NAME it trains on a TPU, with
--replicas=N on several GPUs of this host.
"""

import os
import time
from typing import Any

import keras
from absl import app

from limoe_tf.data import mixture
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.evaluate import results, run_tasks
from limoe_tf.evaluate.callback import EvaluateCallback
from limoe_tf.train import freeze, run_folder
from limoe_tf.train.average import AverageCheckpoints
from limoe_tf.train.callbacks import ProgressLine, SaveCheckpoint, ScalarLog
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.init_from import init_from
from limoe_tf.train.preemption import StopOnSignal, exit_when_cut_off
from limoe_tf.train.rollback import Rollbacks
from limoe_tf.train.steps import updates
from limoe_tf.train.watch import CollapseWatch, StopWhenSkipping, TooManySkipped
from tpu_jobs import command, errors, settings, usage
from tpu_jobs.experiment import Experiment, architecture
from tpu_jobs.run_state import RunState


def train(experiment: Experiment, workdir: str) -> dict[str, Any]:
    """Trains, from the last checkpoint if there is one, evaluates, and writes `results.json`.

    Args:
      experiment: `experiment.Experiment`.
      workdir: folder of the run.

    Returns:
      dict of the results. `seconds` covers this call only, not the run before a restart.

    Raises:
      ValueError: if the folder cannot be written to or contains a checkpoint or a vocabulary that
        does not match the model or what is frozen, `group_size` does not divide a replica's batch,
        a task cannot be run, too many records are bad, or too many steps are not finite; and at the
        end, with all results written, if some tasks have failed.
    """
    checkpoints, state = _compiled(experiment, workdir)
    checkpoints.check_writable()
    with run_folder.held(workdir):
        return _train(experiment, checkpoints, state, workdir)


def _train(experiment, checkpoints, state, workdir):
    start = time.time()
    step = state.restore(checkpoints, workdir, to_step=experiment.steps)
    _check_frozen(experiment)
    weights = checkpoints.latest
    if weights is None and experiment.init_from is not None:
        step, weights = _begin_with(experiment), experiment.init_from
    if weights is None and experiment.init_backbone is not None:
        weights = experiment.init_backbone
        _say_begin(weights, experiment.model.init_backbone(weights))
        experiment.take_vocabulary(workdir)
    if step < experiment.steps:
        run_tasks.check_data(experiment.tasks, experiment.model)
    if weights is None:
        experiment.make_vocabulary(workdir)
    vocabulary = experiment.load_vocabulary(workdir, weights=weights)
    experiment.load_codebook(workdir, weights=weights)
    parameters = experiment.model.num_parameters
    if experiment.frozen:
        print(
            f"{len(experiment.frozen)} weights are frozen, {experiment.frozen[0]} first", flush=True
        )
    print(f"{parameters:,} parameters; starting at step {step}", flush=True)
    if step < experiment.steps:
        _fit(experiment, vocabulary, checkpoints, state, workdir)
    else:
        state.write_config(workdir)
    seconds_of_training = time.time() - start
    print("Evaluating ...", flush=True)
    found = experiment.run_tasks(vocabulary)
    found["parameters"] = parameters
    found["step"] = updates(experiment.model)
    found["seconds_of_training"] = round(seconds_of_training, 1)
    found["seconds"] = round(time.time() - start, 1)
    results.write_json(os.path.join(workdir, "results.json"), found)
    print(results.markdown_table(found), flush=True)
    run_tasks.raise_failed(found)
    return found


def _begin_with(experiment):
    """Takes the weights of another run; returns the step of the optimizer."""
    changed = init_from(
        experiment.model,
        experiment.init_from,
        optimizer=experiment.init_optimizer,
        noise=experiment.init_noise,
    )
    _say_begin(experiment.init_from, changed)
    step = updates(experiment.model)
    if step >= experiment.steps:
        raise ValueError(
            f"`steps` must be more than the {step} that the optimizer of init_from has made. "
            f"Received: steps={experiment.steps}"
        )
    return step


def _say_begin(path, changed):
    print("\n  ".join([f"The run begins with {path}", *changed]), flush=True)


def _compiled(experiment, workdir):
    """Compiles the model; returns the run's Checkpoints, and the state that they hold with it."""
    experiment.model.compile(
        experiment.optimizer,
        **experiment.step_options,
        detailed_logs=True,
        jit_compile=experiment.jit_compile,
        steps_per_execution=experiment.steps_per_execution,
    )
    _check_groups(experiment)
    state = RunState(Rollbacks(experiment.max_rollbacks), settings.read(experiment))
    folder = os.path.join(workdir, "checkpoints")
    return Checkpoints(experiment.model, folder, others=state.variables()), state


def _check_groups(experiment):
    """Raises ValueError if every batch would end with a smaller group: TPUs would compute both."""
    model, group_size = experiment.model, architecture(experiment.model)["group_size"]
    replicas = model.distribute_strategy.num_replicas_in_sync
    examples = experiment.batch_size // replicas // experiment.num_slices
    if group_size is not None and examples % group_size:
        raise ValueError(
            "`group_size` must divide the examples of a replica's batch, or of a slice of it. "
            f"Received: group_size={group_size}, examples={examples}"
        )


def _check_frozen(experiment):
    """Raises ValueError if a checkpoint has frozen weights that the experiment would train."""
    others = sorted({*freeze.frozen(experiment.model)} - {*experiment.frozen})
    if others:
        raise ValueError(
            "`freeze` must name what the run has frozen before: there is no optimizer state of it. "
            f"Received: freeze without {others[0]!r} and {len(others) - 1} more"
        )


def _fit(experiment, vocabulary, checkpoints, state, workdir):
    """Trains to the end; after too many steps that are not finite it rolls back and continues."""
    index = RecordIndex(os.path.join(workdir, "records.npz"))
    stop = StopOnSignal(checkpoints)
    while (step := updates(experiment.model)) < experiment.steps:
        try:
            first = step + state.rollbacks.shift
            # The first start needs no index, which would read all files of a bucket.
            batches = experiment.open_batches(
                vocabulary, start_step=first, record_index=index if first else None
            )
            callbacks = _callbacks(experiment, vocabulary, checkpoints, workdir)
            # All is known to fit, and the folder may say so.
            state.write_config(workdir)
            if checkpoints.latest is None:
                checkpoints.save()  # Something to go back to.
            with exit_when_cut_off(checkpoints), experiment.bad_records.as_value_error():
                experiment.model.fit(
                    batches,
                    steps_per_epoch=experiment.steps - step,
                    verbose=1,
                    shuffle=False,
                    # Last, so that the logs of the last step are written.
                    callbacks=[*callbacks, stop],
                )
            _report_data(experiment, experiment.steps - step)
        except TooManySkipped as error:
            every_steps = experiment.checkpoint_every_steps
            state.rollbacks.go_back(checkpoints, error, every_steps=every_steps)
            print(f"\nThe run goes back {state.rollbacks.report()}", flush=True)
            # The checkpoint may be older than a change of the settings.
            state.settings.go_on(updates(experiment.model))


def _report_data(experiment, num_steps):
    """Prints how many pairs were read from each source, and the bad records."""
    given = mixture.num_pairs(
        experiment.train_source, batch_size=experiment.batch_size, num_steps=num_steps
    )
    for name, count in given.items():
        print(f"{count:,} pairs from {name}")
    print(experiment.bad_records.report(), flush=True)


def _count_pairs(experiment):
    """Returns a list of the callback that logs the number of pairs from each part of a mixture."""
    source, start_step = experiment.train_source, updates(experiment.model)
    if not isinstance(source, mixture.Mixture):
        return []

    def add(batch, logs):
        num_steps = start_step + batch + 1
        given = mixture.num_pairs(source, batch_size=experiment.batch_size, num_steps=num_steps)
        logs.update({f"pairs/{name}": count for name, count in given.items()})

    return [keras.callbacks.LambdaCallback(on_train_batch_end=add)]


def _averages(experiment, workdir):
    """Returns a list of the callback that averages checkpoints, if the experiment asks for it."""
    if experiment.average_last is None:
        return []
    folder, last = os.path.join(workdir, "averaged"), experiment.average_last
    parts = Checkpoints(experiment.model, os.path.join(folder, "parts"), max_to_keep=last)
    every_steps = experiment.checkpoint_every_steps
    return [
        AverageCheckpoints(
            parts, folder, to_step=experiment.steps, every_steps=every_steps, last=last
        )
    ]


def _callbacks(experiment, vocabulary, checkpoints, workdir):
    callbacks = [
        ProgressLine(("loss", *experiment.model.progress_logs), batch_size=experiment.batch_size),
        StopWhenSkipping(experiment.max_skipped),  # First, so that no checkpoint follows.
        *_averages(experiment, workdir),
        SaveCheckpoint(checkpoints, every_steps=experiment.checkpoint_every_steps),
        *_count_pairs(experiment),
        ScalarLog(workdir, every_steps=experiment.log_every_steps),
        CollapseWatch(),
    ]
    if experiment.evaluate_every_steps is not None:
        tasks = {
            name: lambda model, task=task: task(model, vocabulary)
            for name, task in experiment.tasks.items()
        }
        evaluation = EvaluateCallback(tasks, every_steps=experiment.evaluate_every_steps)
        # Before the log, which reads its results, and after the callbacks that must not wait.
        callbacks.insert(-2, evaluation)
    return callbacks


@errors.in_one_line
def main():
    train(*command.read())


if __name__ == "__main__":
    app.run(main, flags_parser=usage.parse_flags)
