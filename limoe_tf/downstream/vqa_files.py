"""VQA v2 as it is published: questions and annotations in JSON, and the images of COCO."""

import os
from typing import Any

from limoe_tf.downstream import entries
from limoe_tf.downstream.examples import Examples, of_published
from limoe_tf.downstream.image_folder import ImageFolder
from limoe_tf.downstream.left_out import Fault, LeftOut

_FIELDS = ("question", "answers", "answer_type", "question_type")


def read_vqa(
    questions: str | os.PathLike,
    annotations: str | os.PathLike | None = None,
    *,
    images: str | os.PathLike,
    image_name: str,
    max_left_out: float = 0.1,
    cache_dir: str | os.PathLike | None = None,
) -> Examples:
    """Reads VQA v2, or data of its form.

    Left out, counted and printed are questions without an annotation or an image file, annotations
    without a question or answers, what comes twice, and entries of a wrong form.

    Args:
      questions: JSON file with a list of `questions`.
      annotations: JSON file with a list of `annotations`; None for a test split, which has none.
      images: folder of the images.
      image_name: name of an image, such as "COCO_val2014_{image_id:012d}.jpg".
      max_left_out: largest share of entries, or of 1000 if there are fewer, that may be left out.
      cache_dir: see `Examples`.

    Returns:
      Examples of `image`, `question` <string>[] and `question_id` <int64>[]; with annotations also
      `answers` <string>[n], of VQA's ten annotators as they are published, `answer_type` and
      `question_type` <string>[].

    Raises:
      ValueError: if a file or folder is missing or of another form, `image_name` is no pattern of
        `image_id`, or too much is left out.

    Reference: https://visualqa.org/download.html.
    """
    left_out = LeftOut(os.fspath(questions), max_share=max_left_out)
    folder = ImageFolder(images)
    _check_image_name(image_name)
    examples = []
    for question_id, found in read_questions(questions, annotations, left_out).items():
        try:
            image = folder.find(image_name.format(image_id=found["image_id"]))
        except Fault as fault:
            left_out.note(fault.reason, fault.example)
            continue
        fields = {name: found[name] for name in _FIELDS if name in found}
        examples.append({"image": image, "question_id": question_id, **fields})
    return of_published(examples, left_out, cache_dir=cache_dir)


def read_questions(
    questions: str | os.PathLike, annotations: str | os.PathLike | None, left_out: LeftOut
) -> dict[int, dict[str, Any]]:
    """Reads questions and what is known of each; images are not looked for.

    Args:
      questions: see `read_vqa`.
      annotations: see `read_vqa`.
      left_out: LeftOut.

    Returns:
      dict from `question_id` to dict of `image_id`, `question` and, with annotations, `answers`,
      `answer_type`, `question_type` and `most_frequent`, the answer that is published as such.

    Raises:
      ValueError: if a file is missing or of another form.
    """
    asked = entries.by_key(entries.read_json(questions, "questions"), _with_id, left_out)
    told = None
    if annotations is not None:
        told = entries.by_key(entries.read_json(annotations, "annotations"), _with_id, left_out)
    for question_id in told or ():
        if question_id not in asked:
            left_out.note("annotation without question", f"question_id {question_id}")

    def joined(question):
        question_id, found = question["question_id"], _asked(question)
        if told is None:
            return question_id, found
        if question_id not in told:
            raise Fault("question without annotation")
        return question_id, {**found, **_told(told[question_id], question)}

    placed = ((f"question_id {question_id}", entry) for question_id, entry in asked.items())
    return entries.by_key(placed, joined, left_out)


def _check_image_name(image_name):
    try:
        if image_name.format(image_id=1) != image_name.format(image_id=2):
            return
        reason = "the same for all images"
    except (LookupError, ValueError, AttributeError) as error:
        reason = repr(error)
    raise ValueError(
        "`image_name` must hold the number of an image, such as "
        f"'COCO_val2014_{{image_id:012d}}.jpg'. Received: image_name={image_name!r} ({reason})"
    )


def _with_id(entry):
    return entries.integer(entry, "question_id"), entry


def _asked(question):
    return {
        "image_id": entries.integer(question, "image_id"),
        "question": entries.text(question, "question"),
    }


def _told(annotation, question):
    if entries.integer(annotation, "image_id") != question["image_id"]:
        raise Fault("annotation of another image")
    answers = entries.objects(annotation, "answers")
    return {
        "answers": [entries.text(one, "answer", may_be_blank=True) for one in answers],
        "answer_type": entries.text(annotation, "answer_type"),
        "question_type": entries.text(annotation, "question_type"),
        "most_frequent": entries.text(annotation, "multiple_choice_answer", may_be_blank=True),
    }
