"""Answers to questions on images: VQA, and its like.

Axis letters: B examples of a replica, A answers, N word pieces, S side of an image.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.downstream.answer_list import AnswerList
from limoe_tf.downstream.batches import Record
from limoe_tf.downstream.fine_tuned import FineTuned
from limoe_tf.downstream.heads import ClassHead
from limoe_tf.downstream.vqa_score import OVERALL, vqa_score, write_result_file
from limoe_tf.export.downstream import Signature
from limoe_tf.objectives.masked import means
from limoe_tf.report import Report

# Answers of an exported model.
_BEST = 5


@keras.saving.register_keras_serializable(package="limoe_tf")
class QuestionModel(FineTuned):
    """Chooses one of a list of answers to a question on an image.

    A record has `image`, `question` and, to train, `answers`, those of its annotators; a batch is a
    dict of `image` <uint8>[B, S, S, 3], `question` <int32>[B, N], `question_valid` <bool>[B, N] and
    `scores` <float32>[B, A], what each answer of the list scores. The loss is the sum over answers
    of the binary cross-entropies with these.

    Args:
      backbone: `VlMoe`, see `FineTuned`.
      answers: the list, or the file that holds one in each line, see `tpu_jobs.build_answers`.
      result_file: where `score` writes the answers as VQA's evaluation server takes them, with the
        `question_id` of each record; None for nowhere. Not saved with the model.
      **kwargs: see `FineTuned`.

    Reference: https://arxiv.org/abs/1612.00837 (VQA v2); https://arxiv.org/abs/2111.02358 (head
      and loss).
    """

    images = ("image",)
    texts = {"question": ("question",)}  # noqa: RUF012
    passes = {"pair": 1}  # noqa: RUF012
    kept = ("answers", "answer_type", "question_id")
    task_losses: ClassVar = ("cross_entropy",)
    per_replica: ClassVar = ("cross_entropy", "score")
    summary_logs: ClassVar = ("cross_entropy", "score")

    def __init__(
        self,
        backbone,
        *,
        answers: Sequence[str] | str | os.PathLike,
        result_file: str | os.PathLike | None = None,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        from_file = isinstance(answers, (str, os.PathLike))
        self.answer_list = AnswerList.from_file(answers) if from_file else AnswerList(answers)
        self.result_file = result_file
        self.head = ClassHead(len(self.answer_list), name="head", dtype=self.dtype_policy)
        self.build()

    @property
    def heads(self):
        return [self.head]

    def labels(self, record: Record) -> dict[str, tf.Tensor]:
        """Returns `scores` <float32>[A]; zeros of a record without answers."""
        if "answers" not in record:
            return {"scores": tf.zeros([len(self.answer_list)])}
        scores = self.answer_list.scores(record["answers"])
        return {"scores": tf.ensure_shape(scores, [len(self.answer_list)])}

    def label_specs(self, size):
        return {"scores": tf.TensorSpec([size, len(self.answer_list)], tf.float32)}

    def call(self, batch, training=None):
        """Returns a dict of `logits` <float>[B, A], and the backbone's Report."""
        pair = {
            "image": batch["image"],
            "text": batch["question"],
            "text_valid": batch["question_valid"],
        }
        features, report = self.backbone.pair_features(pair, training=training)
        return {"logits": self.head(features)}, report

    def losses_of(self, outputs, batch):
        logits, scores = tf.cast(outputs["logits"], tf.float32), batch["scores"]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=scores, logits=logits)
        chosen = tf.gather(scores, tf.argmax(logits, axis=-1), axis=-1, batch_dims=1)
        loss, score = means([tf.reduce_sum(losses, axis=-1), chosen])
        return Report({"cross_entropy": loss}, {"score": score})

    def signatures(self) -> dict[str, Signature]:
        """Returns `answer`, with the best `answers` <string>[B, k] and their `probabilities`."""

        def logits(batch):
            return self(batch, training=False)[0]["logits"]

        count = len(self.answer_list)
        return {"answer": Signature(self.images, self.texts, logits, count, self.best)}

    def best(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the answers with the largest logits, the largest first, 5 or all there are.

        Args:
          logits: <float32>[B, A].

        Returns:
          dict of `answers` <string>[B, k] and `probabilities` <float32>[B, k], that each is right.
        """
        found = tf.math.top_k(tf.sigmoid(logits), min(_BEST, len(self.answer_list)))
        answers = tf.gather(tf.constant(self.answer_list.answers), found.indices)
        return {"answers": answers, "probabilities": found.values}

    def score(
        self, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]
    ) -> dict[str, float]:
        """Returns the official score, by type of answer where there are any; writes `result_file`.

        Args:
          outputs: dict of `logits` <float32>[n, A].
          examples: dict of `answers`, lists of n, and `answer_type` and `question_id` [n], as far
            as there are any.

        Raises:
          ValueError: if there is nothing to do: no answers, and no file to write.
        """
        chosen = [self.answer_list.answers[one] for one in outputs["logits"].argmax(axis=1)]
        if self.result_file is not None:
            write_result_file(self.result_file, examples["question_id"], chosen)
        if "answers" not in examples:
            if self.result_file is None:
                raise ValueError(
                    "Questions must have `answers`, or `result_file` be given. Received: neither"
                )
            return {"questions": len(chosen)}
        types = examples.get("answer_type")
        types = None if types is None else types.tolist()
        found = vqa_score(chosen, examples["answers"], types)
        return {"score" if name == OVERALL else f"score_{name}": one for name, one in found.items()}

    def get_config(self):
        return {**super().get_config(), "answers": self.answer_list.answers}
