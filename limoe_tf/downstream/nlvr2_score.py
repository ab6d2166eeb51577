"""The two scores of NLVR2: how many judgments are right, and of how many statements all are."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def nlvr2_score(
    identifiers: Sequence[str], labels: Sequence[int], predicted: Sequence[int]
) -> dict[str, float]:
    """Returns accuracy and consistency of judgments of statements on pairs of images.

    A statement is judged on up to four pairs. Identifiers are those of NLVR2, such as
    "dev-850-0-1": split, set, pair and statement of the set; without the pair they name the
    statement. Accuracy alone is also `keras.metrics.SparseCategoricalAccuracy`; consistency needs
    all judgments.

    Args:
      identifiers: of the examples, texts or their UTF-8 bytes.
      labels: <int>[n] 1 if the statement is true.
      predicted: <int>[n].

    Returns:
      dict of `accuracy`, and `consistency`: the share of statements of which all judgments are
      right.

    Raises:
      ValueError: if there are no examples, their numbers differ, or an identifier has other parts.

    Reference: https://arxiv.org/abs/1811.00491, section 6.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != (len(identifiers),) or predicted.shape != labels.shape or not len(labels):
        raise ValueError(
            "All arguments must be of the same examples, at least one. Received: "
            f"{len(identifiers)} identifiers, labels {labels.shape}, predicted {predicted.shape}"
        )
    right = labels == predicted
    statements = {}
    for identifier, is_right in zip(identifiers, right):
        statement = _statement(tf.compat.as_text(identifier))
        statements[statement] = statements.get(statement, True) and bool(is_right)
    return {
        "accuracy": float(right.mean()),
        "consistency": float(np.mean(list(statements.values()))),
    }


def _statement(identifier):
    parts = identifier.rsplit("-", 3)
    if len(parts) != 4:
        raise ValueError(
            f"An identifier must be split-set-pair-statement. Received: {identifier!r}"
        )
    split, number, _, sentence = parts
    return split, number, sentence
