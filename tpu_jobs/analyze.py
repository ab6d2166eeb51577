"""Writes an HTML report on the routing of a run's sparse layers, with its pictures and tables.

python -m tpu_jobs.analyze --workdir=runs/quickstart
"""

import os
import time
from collections.abc import Iterable, Iterator

import keras
import tensorflow as tf
from absl import app, flags

from limoe_tf import checks
from limoe_tf.analyze import findings, kinds, pictures, tables
from limoe_tf.analyze.overview import overview
from limoe_tf.analyze.page import page
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.evaluate import results
from limoe_tf.train.callbacks import read_records
from tpu_jobs import errors, evaluation, usage
from tpu_jobs.experiment import Experiment

_SECONDS_BETWEEN_LINES = 5
_FACTS_OF_PAIRS = {
    "Data": "{count:,} pairs of {source}, each image with one of its captions",
    "Routing": "up to {size:,} pairs at a time, with the training capacity and without noise",
    "Experts": "belong to a modality if it has 90 % or more of their tokens, with images and texts "
    "weighted to the same total; otherwise they are mixed",
}
_FACTS_OF_GAPS = {
    "Data": "{count:,} pairs of {source}, and as many images alone and texts alone, masked as in "
    "training; masked patches are grey, masked words are (mask)",
    "Routing": "up to {size:,} pairs at a time, as many images and texts, with the training "
    "capacity and without noise",
    "Streams": "image and text stand alone, pair_image and pair_text attend to each other",
    "Experts": "belong to a stream if it has 90 % or more of their tokens, with all streams of a "
    "layer weighted to the same total; otherwise they are mixed",
}


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_string("checkpoint", None, "a checkpoint other than the newest")
    flags.DEFINE_string("output", None, "folder to write; default: inside/ in the run's folder")
    flags.DEFINE_string(
        "source", None, "task whose source is read; default: the first with captions"
    )
    flags.DEFINE_integer("num_images", 2048, "images, or pairs, to read at most", lower_bound=1)


def analyze(
    experiment: Experiment,
    workdir: str,
    *,
    checkpoint: str | None = None,
    output: str | None = None,
    source: str | None = None,
    num_images: int = 2048,
) -> str:
    """Restores the weights, routes a dataset as in training, and writes the report.

    What a model fills in is masked as in training, too.

    Args:
      experiment: `experiment.Experiment`; its `batch_size` is the number of images routed
        together, unless the dataset is smaller.
      workdir: folder of the run.
      checkpoint: path of a checkpoint; None takes the newest of the run.
      output: folder for `index.html`, the tables and, in `images/`, the pictures; None for
        `inside/` in the run's folder.
      source: name of one of the tasks, whose source is read; None takes the first with captions.
      num_images: images to read at most, rounded up to whole batches.

    Returns:
      path of the page.

    Raises:
      ValueError: if there is no checkpoint, no such source or no sparse layer, or the checkpoint or
        the vocabulary does not match the model.
      OSError: if the checkpoint cannot be read.
    """
    evaluation.check_streams(experiment.model)
    task = _task(experiment.tasks, source)
    output = output or os.path.join(workdir, "inside")
    model = experiment.model
    step, restored = evaluation.restore(model, workdir, checkpoint)
    vocabulary = experiment.load_vocabulary(workdir, weights=restored)
    bad_records = BadRecords()
    fills_gaps = _fills_gaps(model)
    read = findings.masked if fills_gaps else findings.pairs
    batches = read(
        task.source,
        vocabulary=vocabulary,
        batch_size=min(experiment.batch_size, num_images),
        num_images=num_images,
        bad_records=bad_records,
        **model.data_options,
        # Of a task with other sources for images alone and texts alone.
        **(getattr(task, "others", {}) if fills_gaps else {}),
    )
    with bad_records.as_value_error():
        found, count = findings.find(model, with_progress(batches, num_images))
    facts = _FACTS_OF_GAPS if fills_gaps else _FACTS_OF_PAIRS
    values = {"count": count, "source": task.source.name, "size": experiment.batch_size}
    facts = {
        "Run": workdir,
        "Step": f"{step:,}",
        **{name: fact.format(**values) for name, fact in facts.items()},
    }
    records = read_records(os.path.join(workdir, "metrics.jsonl"))
    names = tables.names_of(vocabulary.pieces(), kinds.own_names(model))
    return _write(output, found, records, names, facts)


def _fills_gaps(model: keras.Model) -> bool:
    """Whether batches of the model say what is masked."""
    return any(name.endswith("_masked") for name in model.batch_spec(None))


def _task(tasks, name):
    """Returns a task whose source has captions."""
    fitting = {
        key: task for key, task in tasks.items()
        if getattr(getattr(task, "source", None), "has_captions", False)
    }  # fmt: skip
    if not fitting:
        raise ValueError("The gin file must name a task whose source has captions.")
    return fitting[next(iter(fitting)) if name is None else checks.one_of("source", name, fitting)]


def with_progress(
    batches: Iterable[dict[str, tf.Tensor]], num_images: int
) -> Iterator[dict[str, tf.Tensor]]:
    """Yields the batches; prints every few seconds how many images are done, and the time left."""
    start = printed = time.time()
    done = 0
    for batch in batches:
        yield batch
        done += len(batch["image"])
        now = time.time()
        if now - printed >= _SECONDS_BETWEEN_LINES:
            rate, printed = done / (now - start), now
            left = max(0, num_images - done) / rate
            print(
                f"{done} of at most {num_images} images, {rate:.1f} a second, "
                f"{int(left) // 60}:{int(left) % 60:02d} left",
                flush=True,
            )


def _write(output, found, records, names, facts):
    comparing = [*pictures.of_layers(found), *pictures.over_steps(records, found)]
    of_layer = {layer: pictures.of_layer(layer, one) for layer, one in found.items()}
    of_experts = pictures.of_experts(found)
    overviews = {layer: overview(layer, one, names) for layer, one in found.items()}
    groups = (comparing, overviews.values(), *of_layer.values(), *of_experts.values())
    folder = os.path.join(output, "images")
    tf.io.gfile.makedirs(folder)
    for picture in (one for group in groups for one in group if one):
        with tf.io.gfile.GFile(os.path.join(folder, f"{picture.name}.png"), "wb") as file:
            file.write(pictures.as_png(picture))
    for name, text in tables.tables(found, names=names).items():
        results.write_text(os.path.join(output, name), text)
    path = os.path.join(output, "index.html")
    text = page(
        found, facts=facts, names=names, comparing=comparing, overviews=overviews,
        of_layer=of_layer, of_experts=of_experts,
    )  # fmt: skip
    results.write_text(path, text)
    print(f"report, {len(text) / 1e6:.1f} MB: {path}", flush=True)
    return path


@errors.in_one_line
def main():
    experiment, workdir, _ = evaluation.read()
    values = flags.FLAGS
    analyze(
        experiment,
        workdir,
        checkpoint=values.checkpoint,
        output=values.output and os.path.expanduser(values.output),
        source=values.source,
        num_images=values.num_images,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
