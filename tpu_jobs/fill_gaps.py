"""Draws what a run's VL-MoE puts in the place of masked patches and words.

python -m tpu_jobs.fill_gaps --workdir=runs/vlmoe_quickstart --output=filled.png
"""

import os

import tensorflow as tf
from absl import app, flags

from limoe_tf import checks
from limoe_tf.analyze import fillings
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.masked_batches import masked_batches
from limoe_tf.model.vlmoe import VlMoe
from tpu_jobs import command, errors, evaluation, usage
from tpu_jobs.experiment import Experiment


def fill_gaps(
    experiment: Experiment,
    workdir: str,
    *,
    output: str,
    task: str | None = None,
    num_pairs: int = 6,
    seed: int = 0,
) -> list[fillings.Filling]:
    """Restores the weights, fills in some pairs, writes the picture and prints the texts.

    Args:
      experiment: of the run.
      workdir: folder of the run.
      output: PNG to write.
      task: name of the task whose source is read; None takes the first that has one.
      num_pairs: how many.
      seed: decides which, and what is masked.

    Returns:
      list of `fillings.Filling`.

    Raises:
      ValueError: if the run is of another kind of model, or has no checkpoint or no such task.
    """
    model = experiment.model
    if not isinstance(model, VlMoe) or model.patch_codes is None:
        raise ValueError(
            "`workdir` must be of a VlMoe whose targets are codes of patches. "
            f"Received: {type(model).__name__} in {workdir!r}"
        )
    sources = {name: one.source for name, one in experiment.tasks.items() if hasattr(one, "source")}
    source = sources[next(iter(sources)) if task is None else checks.one_of("task", task, sources)]
    _, restored = evaluation.restore(model, workdir)
    vocabulary = experiment.load_vocabulary(workdir, weights=restored)
    bad_records = BadRecords()
    batches = masked_batches(
        source,
        vocabulary=vocabulary,
        batch_size=checks.positive_int("num_pairs", num_pairs),
        seed=seed,
        bad_records=bad_records,
        **model.data_options,
    )
    with bad_records.as_value_error():
        found = fillings.fill(model, next(iter(batches)), vocabulary)
    tf.io.gfile.makedirs(os.path.dirname(output) or ".")
    with tf.io.gfile.GFile(output, "wb") as file:
        file.write(fillings.picture(found))
    for one in found:
        print(f"{one.gaps}\n  {one.words}\n  {one.right[0]} of {one.right[1]} right")
    print(f"wrote {output}", flush=True)
    return found


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_string("output", None, "PNG to write; default: filled.png in the run's folder")
    flags.DEFINE_string("task", None, "task whose source is read; default: the first that has one")
    flags.DEFINE_integer("num_pairs", 6, "pairs to draw")
    flags.DEFINE_integer("seed", 0, "decides which pairs, and what is masked")


@errors.in_one_line
def main():
    values = flags.FLAGS
    workdir = command.place()[1]
    fill_gaps(
        evaluation.of_run(workdir, values.gin_param),
        workdir,
        output=os.path.expanduser(values.output or os.path.join(workdir, "filled.png")),
        task=values.task,
        num_pairs=values.num_pairs,
        seed=values.seed,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
