"""Makes a smaller model by removing the experts that a modality hardly uses.

    python -m tpu_jobs.prune_experts --workdir=runs/mine --modality=image --output=runs/mine/image

The tasks are the run's, or those of --gin_file, as for `tpu_jobs.evaluate`.
Writes `model.keras`, which `keras.models.load_model` reads; `pruned.json` with the experts that
are kept and the share of the tokens that each expert takes; and the tasks' results before and
after, in it and as the table `pruned.md`. A model that contrasts becomes one of that modality
alone, and in both cases the full model embeds the other one. A VlMoe loses those experts only: it
takes images, texts and pairs as before.
"""

import os
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags

from limoe_tf import checks
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import evaluation_batches
from limoe_tf.data.words import Vocabulary
from limoe_tf.evaluate import look, prune, results, run_tasks
from limoe_tf.evaluate.masked_modelling import Fusion, MaskedLosses
from limoe_tf.evaluate.tasks import Retrieval, SuccessRates, ZeroShot
from limoe_tf.export import keras_file
from tpu_jobs import errors, evaluation, usage
from tpu_jobs.experiment import Experiment

# What batches hold of a modality: the key of a stream, with these endings.
ENDINGS = {"image": ("",), "text": ("", "_valid")}


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_enum("modality", None, list(ENDINGS), "modality whose experts are pruned")
    flags.DEFINE_string("output", None, "folder to write to")
    flags.DEFINE_string("checkpoint", None, "a checkpoint other than the newest")
    flags.DEFINE_float(
        "coverage", None, "share of the tokens that the kept experts take; default: 0.99"
    )
    flags.DEFINE_float(
        "min_share", None, "alternatively: least share of the tokens of each kept expert"
    )
    flags.DEFINE_string("routed_task", None, "task whose source is routed; default: the first")
    flags.DEFINE_bool("with_pairs", False, "of a VlMoe, whether the tokens of pairs count, too")


def run(
    experiment: Experiment,
    workdir: str,
    output: str | None,
    *,
    modality: str,
    checkpoint: str | None = None,
    coverage: float | None = None,
    min_share: float | None = None,
    routed_task: str | None = None,
    with_pairs: bool = False,
) -> dict[str, Any]:
    """Prunes a checkpoint, writes the smaller model and evaluates both with the tasks.

    Args:
      experiment: `experiment.Experiment` on one replica.
      workdir: folder of the run.
      output: folder to write to.
      modality: "image" or "text".
      checkpoint: path of a checkpoint; None takes the newest of the run.
      coverage, min_share: see `prune.experts_to_keep`; a coverage of 0.99 if neither is given.
      routed_task: name of the retrieval or, for images, zero-shot task, of a VlMoe the task of
        masked modelling, whose source is routed to find the shares; None takes the first.
      with_pairs: of a VlMoe, whether the modality's tokens in pairs count as those of images
        (texts) alone do.

    Returns:
      dict of the contents of `pruned.json`.

    Raises:
      ValueError: if there is no checkpoint, it does not match the model, or an argument is wrong;
        and at the end, with all written, if some tasks have failed.
      OSError: if the checkpoint cannot be read.
    """
    if not output:
        raise ValueError("--output must be given.")
    model, tasks = experiment.model, experiment.tasks
    evaluation.check_streams(model)
    checks.one_of("modality", modality, ENDINGS)
    if with_pairs and f"pair_{modality}" not in model.stream_keys:
        raise ValueError(
            "`with_pairs` must be False for a model that encodes no pairs. "
            f"Received: with_pairs=True for {type(model).__name__}"
        )
    routed_task = _routed_task(tasks, modality, routed_task)
    step, restored = evaluation.restore(model, workdir, checkpoint)
    vocabulary = experiment.load_vocabulary(workdir, weights=restored)
    experiment.load_codebook(workdir, weights=restored)
    task = tasks[routed_task]
    bad_records = BadRecords()
    batches = _batches(model, task, modality, vocabulary, with_pairs, bad_records)
    with bad_records.as_value_error():
        shares = prune.shares(model, batches, modality=modality)
    rule = {"coverage": coverage, "min_share": min_share}
    if coverage is None and min_share is None:
        rule["coverage"] = 0.99
    num_choices = model.get_config()["num_choices"]
    kept = prune.experts_to_keep(shares, **rule, num_choices=num_choices)
    smaller = prune.pruned(model, modality=modality, kept=kept)
    tf.io.gfile.makedirs(output)
    keras_file.write(smaller, os.path.join(output, "model.keras"), vocabulary=vocabulary)
    both = smaller
    if len(smaller.modalities) == 1:
        both = prune.combined(model, smaller, modality=modality)
    found = {
        "before": {**_results(tasks, model, vocabulary), **_size(model, shares)},
        "after": {**_results(tasks, both, vocabulary), **_size(smaller, kept)},
        "how": {
            "modality": modality,
            "step": step,
            **rule,
            "routed_task": routed_task,
            **({"with_pairs": True} if with_pairs else {}),
        },
        "kept": _by_block(kept),
        "shares": _by_block(shares),
    }
    results.write_json(os.path.join(output, "pruned.json"), found)
    _print_table(found, os.path.join(output, "pruned.md"))
    for part in ("before", "after"):
        run_tasks.raise_failed(found[part])
    return found


def _routed_task(tasks, modality, name):
    """Returns the name of the task whose source is routed."""
    kinds = (Retrieval, MaskedLosses, Fusion, *((ZeroShot,) if modality == "image" else ()))
    fitting = [task_name for task_name, task in tasks.items() if isinstance(task, kinds)]
    if not fitting:
        raise ValueError(
            "The tasks must have a retrieval or, for images, a zero-shot task; those of a VlMoe "
            "one of masked modelling. "
            f"Received: tasks={sorted(tasks)}, modality={modality!r}"
        )
    return fitting[0] if name is None else checks.one_of("routed_task", name, fitting)


def _batches(
    model: keras.Model,
    task: Any,
    modality: str,
    vocabulary: Vocabulary,
    with_pairs: bool,
    bad_records: BadRecords,
) -> Iterator[dict[str, tf.Tensor]]:
    """Yields the source of a task: images (texts) alone and, if asked for, with each caption."""
    key = model.stream_keys[modality]
    for source in look.parts(task.source):
        batches = evaluation_batches(
            source,
            batch_size=task.batch_size,
            image_size=model.image_size,
            vocabulary=vocabulary,
            resize=getattr(task, "resize", "resize"),
            bad_records=bad_records,
        )
        for batch in batches:
            yield {f"{key}{end}": batch[f"{modality}{end}"] for end in ENDINGS[modality]}
            if with_pairs:
                images = tf.gather(batch["image"], batch["image_of_text"])
                yield {"image": images, "text": batch["text"], "text_valid": batch["text_valid"]}


def _by_block(values):
    return {f"block_{block:02d}": list(value) for block, value in values.items()}


def _results(tasks, model, vocabulary):
    """Returns the results of all tasks except those that route both modalities together."""
    others = {name: task for name, task in tasks.items() if not isinstance(task, SuccessRates)}
    return run_tasks.run(others, model, vocabulary)


def _size(model, experts):
    counts = {block: len(of_block) for block, of_block in _by_block(experts).items()}
    return {"experts": counts, "parameters": model.num_parameters}


def _print_table(found, path):
    """Prints and writes a Markdown table of the results before and after."""
    before, after = results.flatten(found["before"]), results.flatten(found["after"])
    lines = ["| result | before | after |", "|---|---:|---:|"]
    for name, value in before.items():
        if name not in after:  # Of a task that failed there.
            continue
        cells = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in (value, after[name])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    results.write_text(path, text)


@errors.in_one_line
def main():
    values = flags.FLAGS
    experiment, workdir, _ = evaluation.read()
    run(
        experiment,
        workdir,
        values.output and os.path.expanduser(values.output),
        modality=values.modality,
        checkpoint=values.checkpoint,
        coverage=values.coverage,
        min_share=values.min_share,
        routed_task=values.routed_task,
        with_pairs=values.with_pairs,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
