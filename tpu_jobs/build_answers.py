"""Lists the answers that a model of VQA chooses from: the frequent ones of some questions.

    python -m tpu_jobs.build_answers --questions=questions.json --annotations=annotations.json \\
        --output=answers.txt
    python -m tpu_jobs.build_answers --source=grid_questions --output=answers.txt

Each question counts once, with its most frequent answer: the one that VQA v2 states, else that of
its `answers`. The file has one answer a line, normalized, the most frequent first. Files of several
splits are listed with commas: --questions=train.json,val.json --annotations=train.json,val.json.
"""

import os

import tensorflow as tf
from absl import app, flags

from limoe_tf import checks, whole_file
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.downstream import frequent_answers
from limoe_tf.downstream.left_out import LeftOut
from limoe_tf.downstream.vqa_files import read_questions
from tpu_jobs import errors, usage
from tpu_jobs.build_vocabulary import open_records

_MAX_LEFT_OUT = 0.1


def answers_of_files(questions: list[str], annotations: list[str]) -> list[str]:
    """Returns the most frequent answer of each question, as the annotations state it.

    Args:
      questions: files of VQA v2, see `vqa_files.read_vqa`.
      annotations: one for each of them.

    Raises:
      ValueError: if their numbers differ, a file is missing or of another form, or too many entries
        are left out.
    """
    if len(questions) != len(annotations):
        raise ValueError(
            "There must be a file of annotations for each of questions. "
            f"Received: {len(questions)} of questions, {len(annotations)} of annotations"
        )
    answers = []
    for asked, told in zip(questions, annotations):
        left_out = LeftOut(asked, max_share=_MAX_LEFT_OUT)
        found = read_questions(asked, told, left_out)
        left_out.finish(len(found))
        answers += [one["most_frequent"] for one in found.values()]
    return answers


def answers_of_source(name: str, *, split: str, answers: str, data_dir: str | None) -> list[str]:
    """Returns the most frequent answer of each record of a source.

    Args:
      name: pattern or file of TFRecords, or name of a TensorFlow Datasets builder or its folder.
      split: split of the builder.
      answers: feature of the answers.
      data_dir: folder of the built datasets.

    Raises:
      ValueError: if there is no such source or feature, or too many records are bad.
    """
    fields = {"image": None, "captions": None, "fields": {"answers": answers}}
    source = open_records(name, split=split, data_dir=data_dir, **fields)
    bad_records = BadRecords()
    found = list(frequent_answers.most_frequent(source, bad_records=bad_records))
    print(bad_records.report(), flush=True)
    return found


def build(answers: list[str], *, path: str, min_count: int, overwrite: bool = False) -> None:
    """Writes the frequent answers and prints how many questions they cover.

    Args:
      answers: the most frequent answer of each question.
      path: file to write.
      min_count: questions that an answer must have.
      overwrite: whether an existing file may be replaced.

    Raises:
      ValueError: if the file exists, or no answer is frequent enough.
    """
    if tf.io.gfile.exists(path) and not overwrite:
        raise ValueError(f"The file exists; --overwrite replaces it. Received: output={path!r}")
    found = frequent_answers.find_frequent(answers, min_count=min_count)
    whole_file.write(path, "".join(f"{answer}\n" for answer in found.answers).encode("utf-8"))
    print(
        f"wrote {path}: {len(found.answers):,} answers of at least {min_count} questions; they are "
        f"the most frequent answer of {found.num_covered / found.num_questions:.1%} of "
        f"{found.num_questions:,} questions",
        flush=True,
    )


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_list("questions", [], "files of questions of VQA v2")
    flags.DEFINE_list("annotations", [], "files of their annotations, in the same order")
    flags.DEFINE_string(
        "source", None, "instead: TFRecord files (a path or pattern), or a TFDS name"
    )
    flags.DEFINE_string("split", "train", "split of a TFDS builder, such as train[:10%]")
    flags.DEFINE_string("answers", "answers", "feature of a source's answers")
    flags.DEFINE_string("data_dir", None, "folder of the TFDS datasets")
    flags.DEFINE_string("output", None, "file to write")
    flags.DEFINE_integer("min_count", 9, "questions that an answer must have")
    flags.DEFINE_bool("overwrite", False, "whether an existing file may be replaced")
    flags.mark_flags_as_required(["output"])


def answers_of_flags(values: flags.FlagValues) -> list[str]:
    """Returns the most frequent answers of the questions that the flags name.

    Raises:
      ValueError: if they name files and a source, or neither; see also `answers_of_files` and
        `answers_of_source`.
    """
    if bool(values.source) == bool(values.questions or values.annotations):
        raise ValueError(
            "Either --source or --questions and --annotations must be given. "
            f"Received: {'both' if values.source else 'neither'}"
        )
    if values.source:
        return answers_of_source(
            os.path.expanduser(values.source),
            split=values.split,
            answers=values.answers,
            data_dir=values.data_dir,
        )
    files = values.questions, values.annotations
    return answers_of_files(*([os.path.expanduser(path) for path in of] for of in files))


@errors.in_one_line
def main():
    values = flags.FLAGS
    checks.positive_int("min_count", values.min_count)
    build(
        answers_of_flags(values),
        path=os.path.expanduser(values.output),
        min_count=values.min_count,
        overwrite=values.overwrite,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
