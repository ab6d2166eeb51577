"""The score of answers to questions on images, as in VQA v2, and the file that its server takes."""

import collections
import json
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import whole_file
from limoe_tf.downstream.answer_list import score
from limoe_tf.downstream.answer_text import normalize

OVERALL = "overall"


@keras.saving.register_keras_serializable(package="limoe_tf")
class VqaScore(keras.metrics.Mean):
    """The mean score of the answers with the largest logits."""

    def __init__(self, name: str = "vqa_score", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(
        self, scores: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Takes a batch.

        Args:
          scores: <float>[B, A] what each answer would score for each question, see
            `AnswerList.scores`.
          logits: <float>[B, A].
          sample_weight: <float>[B] or None.

        Raises:
          ValueError: if the shapes differ.
        """
        scores, logits = tf.convert_to_tensor(scores), tf.convert_to_tensor(logits)
        if len(scores.shape) != 2 or not scores.shape.is_compatible_with(logits.shape):
            raise ValueError(
                "`scores` and `logits` must be of one shape, [B, A]. "
                f"Received: {scores.shape} and {logits.shape}"
            )
        chosen = tf.gather(scores, tf.argmax(logits, axis=-1), axis=-1, batch_dims=1)
        super().update_state(chosen, sample_weight=sample_weight)


def vqa_score(
    predicted: Sequence[str],
    given: Sequence[Sequence[str]],
    answer_types: Sequence[str] | None = None,
) -> dict[str, float]:
    """Returns the mean score of some answers, of all and of each type.

    Args:
      predicted: one answer for each question, a text or its UTF-8 bytes, as all others.
      given: the annotators' answers to each question.
      answer_types: of each question, such as "yes/no"; None for the overall score alone.

    Returns:
      dict of "overall", and each type, to a number from 0 to 1.

    Raises:
      ValueError: if there are no questions, or the lengths differ.

    Reference: https://visualqa.org/evaluation.html; see `answer_list.score`.
    """
    lengths = {len(values) for values in (predicted, given, answer_types) if values is not None}
    if len(lengths) > 1 or lengths == {0}:
        raise ValueError(
            "All arguments must be of the same questions, at least one. "
            f"Received: of {', '.join(map(str, sorted(lengths)))}"
        )
    numbers = np.array([len(answers) for answers in given])
    flat = [answer for answers in given for answer in answers]
    matches = np.repeat(normalize(list(predicted)).numpy(), numbers) == (
        normalize(flat).numpy() if flat else np.zeros(0, object)
    )
    questions = np.repeat(np.arange(len(numbers)), numbers)
    counts = np.bincount(questions[matches], minlength=len(numbers))
    scores = score(counts, numbers).numpy().astype(np.float64)
    of_type = collections.defaultdict(list)
    for answer_type, one in zip(answer_types or (), scores):
        of_type[tf.compat.as_text(answer_type)].append(one)
    return {
        OVERALL: float(scores.mean()),
        **{name: float(np.mean(found)) for name, found in sorted(of_type.items())},
    }


def write_result_file(
    path: str | os.PathLike, question_ids: Sequence[int], answers: Sequence[str]
) -> None:
    """Writes answers as VQA's evaluation server takes them: a JSON list of an object for each.

    Args:
      path: the file, which is written as a whole.
      question_ids: of the questions, each once.
      answers: one for each.

    Raises:
      ValueError: if the lengths differ or a question comes twice.
    """
    question_ids = [int(one) for one in question_ids]
    if len(question_ids) != len(answers):
        raise ValueError(
            "There must be one answer for each question. "
            f"Received: {len(answers)} answers, {len(question_ids)} questions"
        )
    if len(set(question_ids)) < len(question_ids):
        twice = [one for one, times in collections.Counter(question_ids).items() if times > 1]
        raise ValueError(f"`question_ids` must be distinct. Received: {twice[0]} more than once")
    results = [
        {"question_id": one, "answer": tf.compat.as_text(answer)}
        for one, answer in zip(question_ids, answers)
    ]
    whole_file.write(path, json.dumps(results).encode("utf-8"))
