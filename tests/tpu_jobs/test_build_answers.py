import json
import subprocess
import sys

import pytest

from limoe_tf.downstream.answer_list import AnswerList
from tests.shared import repository
from tests.shared.record_files import example, write
from tpu_jobs import build_answers


def write_split(folder, name, answers):
    """Writes a question for each answer, its most frequent one, and the annotations."""
    questions = [{"question_id": i, "image_id": i, "question": "?!"} for i in range(len(answers))]
    annotations = [
        {
            "question_id": i,
            "image_id": i,
            "question_type": "none of the above",
            "answer_type": "other",
            "multiple_choice_answer": answer,
            "answers": [{"answer": "other", "answer_confidence": "no", "answer_id": 1}],
        }
        for i, answer in enumerate(answers)
    ]
    paths = folder / f"{name}-questions.json", folder / f"{name}-annotations.json"
    paths[0].write_text(json.dumps({"questions": questions}), "utf-8")
    paths[1].write_text(json.dumps({"annotations": annotations}), "utf-8")
    return list(map(str, paths))


def run(*arguments):
    command = [sys.executable, "-m", "tpu_jobs.build_answers", *arguments]
    return subprocess.run(command, cwd=repository.ROOT, capture_output=True, text=True, check=False)


def test_the_command_counts_the_stated_answers_of_several_splits(tmp_path):
    train = write_split(tmp_path, "train", ["Yes"] * 8 + ["no"] * 9 + ["two"] * 3)
    val = write_split(tmp_path, "val", ["yes."] * 4 + ["2"] * 6 + ["blue"] * 8 + ["a"] * 12)
    path = tmp_path / "answers.txt"
    questions, annotations = (f"{one},{other}" for one, other in zip(train, val))
    arguments = f"--questions={questions}", f"--annotations={annotations}", f"--output={path}"
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    # "yes" 12, "2" 9 and "no" 9 of 50 questions; "blue" 8 is too rare, "a" is an article.
    assert path.read_text("utf-8") == "yes\n2\nno\n"
    assert f"wrote {path}: 3 answers of at least 9 questions" in done.stdout
    assert "the most frequent answer of 60.0% of 50 questions" in done.stdout
    assert AnswerList.from_file(path).answers == ["yes", "2", "no"]


def test_answers_of_records_are_counted(tmp_path, capsys):
    records = [example(given=[b"yes", b"Yes", b"no"])] * 3 + [example(given=[b"no"])]
    path = write(tmp_path / "a.tfrecord", records)
    found = build_answers.answers_of_source(path, split="train", answers="given", data_dir=None)
    assert found == ["yes", "yes", "yes", "no"]
    assert "no bad records" in capsys.readouterr().out
    path = str(tmp_path / "answers.txt")
    build_answers.build(found, path=path, min_count=1)
    with pytest.raises(ValueError, match="The file exists"):
        build_answers.build(found, path=path, min_count=2)
    build_answers.build(found, path=path, min_count=2, overwrite=True)
    assert "1 answers of at least 2" in capsys.readouterr().out
    assert AnswerList.from_file(path).answers == ["yes"]


def test_what_is_left_out_of_files_is_printed(tmp_path, capsys):
    train = write_split(tmp_path, "train", ["yes", 3, "no"])
    assert build_answers.answers_of_files([train[0]], [train[1]]) == ["yes", "no"]
    assert "1 x `multiple_choice_answer` is no text" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Received: 1 of questions, 0 of annotations"):
        build_answers.answers_of_files([train[0]], [])


def values_of(*arguments):
    values = repository.job_flags("tpu_jobs.build_answers")
    values(["build_answers", "--output=a.txt", *arguments])
    return values


def test_files_or_a_source_must_be_given(tmp_path):
    for arguments, given in ([], "neither"), (["--source=a", "--questions=b"], "both"):
        with pytest.raises(ValueError, match=f"must be given. Received: {given}"):
            build_answers.answers_of_flags(values_of(*arguments))
    write(tmp_path / "a.tfrecord", [example(given=[b"no"])])
    values = values_of(f"--source={tmp_path}/*.tfrecord", "--answers=given")
    assert build_answers.answers_of_flags(values) == ["no"]
    questions, annotations = write_split(tmp_path, "val", ["yes"])
    values = values_of(f"--questions={questions}", f"--annotations={annotations}")
    assert build_answers.answers_of_flags(values) == ["yes"]
