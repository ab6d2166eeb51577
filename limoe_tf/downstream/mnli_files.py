"""MNLI as it is published: a premise and a hypothesis on each line of JSON."""

import os

from limoe_tf.downstream import entries
from limoe_tf.downstream.examples import Examples, of_published
from limoe_tf.downstream.left_out import Fault, LeftOut

LABELS = ("entailment", "neutral", "contradiction")
_NO_LABEL = "-"


def read_mnli(
    path: str | os.PathLike,
    *,
    max_left_out: float = 0.1,
    cache_dir: str | os.PathLike | None = None,
) -> Examples:
    """Reads a split of MNLI, or of SNLI, which has the same form.

    Left out, counted and printed are pairs on which annotators did not agree, of the label "-",
    pairs that come twice, and lines that are no JSON or of a wrong form.

    Args:
      path: file of JSON lines, such as multinli_1.0_dev_matched.jsonl.
      max_left_out: largest share of lines, or of 1000 if there are fewer, that may be left out.
      cache_dir: see `Examples`.

    Returns:
      Examples of `premise` and `hypothesis` <string>[], and `label` <int64>[], of which
      `label_names` are "entailment", "neutral" and "contradiction".

    Raises:
      ValueError: if there is no such file, or too much is left out.

    Reference: https://cims.nyu.edu/~sbowman/multinli/.
    """
    left_out = LeftOut(os.fspath(path), max_share=max_left_out)
    found = entries.by_key(entries.read_json_lines(path, left_out), _read, left_out)
    return of_published(list(found.values()), left_out, cache_dir=cache_dir, label_names=LABELS)


def _read(entry):
    label = entries.text(entry, "gold_label")
    if label == _NO_LABEL:
        raise Fault("annotators disagree")
    if label not in LABELS:
        raise Fault("`gold_label` is no label")
    return entries.text(entry, "pairID"), {
        "premise": entries.text(entry, "sentence1"),
        "hypothesis": entries.text(entry, "sentence2"),
        "label": LABELS.index(label),
    }
