"""Exports a run's model as a SavedModel or a `.keras` file, or imports the weights of the latter.

    python -m tpu_jobs.export --workdir=runs/mine --output=model            # a SavedModel
    python -m tpu_jobs.export --workdir=runs/mine --output=mine.keras --format=keras
    python -m tpu_jobs.export --workdir=runs/new --gin_file=FILE --from_keras=mine.keras

A SavedModel is of a model that contrasts images with texts, for `classify`, or is fine-tuned, for
`ask`; it needs only TensorFlow and TensorFlow Text. A `.keras` file also holds the vocabulary. The
last command imports: it writes the folder of a run with a checkpoint of step 0, from which `train`
starts and which all jobs read.
"""

import os
from collections.abc import Sequence

import tensorflow as tf
from absl import app, flags

import gin
from limoe_tf import checks
from limoe_tf.data import words
from limoe_tf.downstream.fine_tuned import FineTuned
from limoe_tf.downstream.rerank import RerankedRetrieval
from limoe_tf.downstream.score import Score
from limoe_tf.evaluate import provenance, results
from limoe_tf.evaluate.tasks import ZeroShot
from limoe_tf.export import keras_file, saved_model
from limoe_tf.train import checkpoint_files, names
from limoe_tf.train.checkpoint import Checkpoints
from tpu_jobs import command, errors, evaluation, run_state, usage
from tpu_jobs.experiment import Experiment

FORMATS = ("saved_model", "keras")
# Tasks that say how images are brought to the model's size.
_OF_IMAGES = (ZeroShot, Score, RerankedRetrieval)


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_string("checkpoint", None, "a checkpoint other than the newest")
    flags.DEFINE_string("output", None, "folder of the SavedModel or name of the .keras file")
    flags.DEFINE_enum("format", "saved_model", FORMATS, "what to write")
    flags.DEFINE_multi_string(
        "template", [], "prompt with {}; default: those of the gin file's ZeroShot"
    )
    flags.DEFINE_string("weights_license", "unspecified", "license of the weights")
    flags.DEFINE_bool("jit_compile", False, "the SavedModel is compiled by XLA where it is served")
    flags.DEFINE_bool("overwrite", False, "replace an existing model of this name")
    flags.DEFINE_string("from_keras", None, "file whose weights become the run's checkpoint")


def export(
    experiment: Experiment,
    workdir: str,
    output: str,
    *,
    checkpoint: str | None = None,
    form: str = "saved_model",
    templates: Sequence[str] = (),
    weights_license: str = "unspecified",
    jit_compile: bool = False,
    overwrite: bool = False,
) -> None:
    """Restores the weights of a run and exports the model.

    Args:
      experiment: `experiment.Experiment`.
      workdir: folder of the run.
      output: path to write; see the flags for this and the other arguments.

    Raises:
      ValueError: if there is no checkpoint, it or the vocabulary does not match the model,
        `output` exists, or a `.keras` file is to be compiled.
      OSError: if the checkpoint cannot be read.
    """
    checks.one_of("format", form, FORMATS)
    if jit_compile and form != "saved_model":
        raise ValueError(f"--jit_compile is for a SavedModel. Received: format={form!r}")
    checks.plain_path("output", output)
    if form == "saved_model" and not isinstance(experiment.model, FineTuned):
        evaluation.check_contrasts(experiment.model)
    step, restored = evaluation.restore(experiment.model, workdir, checkpoint)
    vocabulary = experiment.load_vocabulary(workdir, weights=restored)
    if form == "keras":
        _write_keras(experiment.model, output, overwrite, vocabulary)
    else:
        tasks = [task for task in experiment.tasks.values() if isinstance(task, _OF_IMAGES)]
        prompts = [task.templates for task in tasks if isinstance(task, ZeroShot)]
        saved_model.export(
            experiment.model,
            vocabulary,
            output,
            templates=templates or (prompts[0] if prompts else ["{}"]),
            resize=tasks[0].resize if tasks else "resize",
            weights_license=weights_license,
            facts={
                "step": step,
                "git_commit": provenance.git_commit(),
                "gin": gin.operative_config_str(),
            },
            jit_compile=jit_compile,
            overwrite=overwrite,
        )
    print(f"the model of step {step}: {output}", flush=True)


def _write_keras(model, output, overwrite, vocabulary=None):
    if not output.endswith(".keras"):
        raise ValueError(f"`output` must end in .keras. Received: output={output!r}")
    if tf.io.gfile.exists(output) and not overwrite:
        raise ValueError(f"`output` must not exist yet. Received: output={output!r}")
    keras_file.write(model, output, vocabulary=vocabulary)


def from_keras(experiment: Experiment, workdir: str, path: str | os.PathLike) -> str:
    """Makes the weights of a `.keras` file a run: a checkpoint of step 0, from which it starts.

    The state of the optimizer is initialized. With the checkpoint the folder gets the `config.gin`
    and, if the gin file names none and the `.keras` file holds it, the vocabulary.

    Args:
      experiment: `experiment.Experiment` with the same model as the file.
      workdir: folder of the run; it must not hold a checkpoint.
      path: the file.

    Returns:
      The path of the checkpoint.

    Raises:
      ValueError: if the file holds another model, the run has checkpoints, or its vocabulary is not
        that of the weights.
    """
    folder = os.path.join(workdir, "checkpoints")
    if steps := checkpoint_files.steps_in(folder):
        raise ValueError(f"`workdir` must not hold a checkpoint. Received: {folder!r}, {steps=}")
    run_state.check_no_run(workdir)
    if (replicas := experiment.model.distribute_strategy.num_replicas_in_sync) > 1:
        raise ValueError(
            "`from_keras` must be used on one replica; the run may go on with more. "
            f"Received: {replicas} replicas"
        )
    loaded, held = keras_file.read(checks.existing_file("from_keras", path))
    wanted, found = _forms(experiment.model), _forms(loaded)
    if differing := sorted({name for name, _ in wanted ^ found}):
        raise ValueError(
            "`from_keras` must hold the variables of the gin file's model. "
            f"Received: {path!r}, which differs in {differing[:5]}"
        )
    _give_vocabulary(experiment, loaded, held, workdir, path)
    loaded.compile(experiment.optimizer)
    results.write_text(os.path.join(workdir, "config.gin"), gin.operative_config_str())
    written = Checkpoints(loaded, folder).save()
    print(f"the weights of {path}: {written}", flush=True)
    return written


def _give_vocabulary(experiment, loaded, held, workdir, path):
    """Compares the run's vocabulary with that of the weights, or makes it the run's."""
    place = experiment.vocabulary_path(workdir)
    if held is not None and not tf.io.gfile.exists(place):
        words.write_vocabulary(held, place)
    if tf.io.gfile.exists(place):
        experiment.model.companions = loaded.companions
        experiment.load_vocabulary(workdir, weights=path)
        loaded.companions = experiment.model.companions
    else:
        print(f"{path} holds no vocabulary; the run needs the one of the weights: {place}")


def _forms(model):
    return {(name, f"{v.dtype}{v.shape}") for name, v in names.of_weights(model).items()}


@errors.in_one_line
def main():
    values = flags.FLAGS
    if not (values.output or values.from_keras):
        raise ValueError("--output must be given.")
    if values.from_keras:
        from_keras(*command.read(), os.path.expanduser(values.from_keras))
        return
    experiment, workdir, _ = evaluation.read()
    export(
        experiment,
        workdir,
        os.path.expanduser(values.output),
        checkpoint=values.checkpoint,
        form=values.format,
        templates=values.template,
        weights_license=values.weights_license,
        jit_compile=values.jit_compile,
        overwrite=values.overwrite,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
