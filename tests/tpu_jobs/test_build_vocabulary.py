import pathlib
import subprocess
import sys

import pytest

from limoe_tf.data import sources, words
from tests.shared.record_files import example, jpeg, write, write_pairs
from tpu_jobs import build_vocabulary

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path):
    return sources.TfrecordSource(write_pairs(tmp_path / "train.tfrecord", 30))


def test_the_command_writes_a_vocabulary_and_says_so(source, tmp_path):
    path = tmp_path / "words.model"
    command = [sys.executable, "-m", "tpu_jobs.build_vocabulary", f"--source={source.name}"]
    command += ["--size=40", "--algorithm=bpe", f"--output={path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "60 captions read in all" in done.stdout
    assert f"wrote {path}: 40 pieces (40 asked for)" in done.stdout
    assert words.Vocabulary(str(path), text_length=8).size == 40
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "error: The file exists; --overwrite replaces it" in again.stderr


def test_an_existing_file_is_replaced_only_if_asked_for(source, tmp_path):
    path = tmp_path / "words.model"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="The file exists"):
        build_vocabulary.build(source, path=str(path), size=40, algorithm="bpe")
    assert path.read_bytes() == b"precious"
    build_vocabulary.build(source, path=str(path), size=40, algorithm="bpe", overwrite=True)
    assert words.Vocabulary(str(path), text_length=8).size == 40


def test_lines_of_texts_give_a_vocabulary(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"line {i} of a text" for i in range(30)))
    source = build_vocabulary.open_source(str(tmp_path / "*.txt"))
    build_vocabulary.build(source, path=str(tmp_path / "words.model"), size=30, exact_size=False)
    assert "30 captions read in all" in capsys.readouterr().out


def test_only_the_first_captions_are_read_if_asked_for(source, tmp_path, capsys):
    path = str(tmp_path / "words.model")
    build_vocabulary.build(source, path=path, size=30, max_captions=9, exact_size=False)
    assert "9 captions read in all" in capsys.readouterr().out


def test_bad_records_are_reported_and_too_many_stop_the_job(tmp_path, capsys):
    records = [example(jpg=jpeg(), caption=b"a cat and a dog"), b"garbage", example(jpg=jpeg())]
    source = sources.TfrecordSource(write(tmp_path / "few", records))
    path = str(tmp_path / "words.model")
    build_vocabulary.build(source, path=path, size=30, exact_size=False)
    printed = capsys.readouterr().out
    assert "2 bad among the first 3 records" in printed
    assert "1 x not a tf.train.Example" in printed and "1 x no caption" in printed
    source = sources.TfrecordSource(write(tmp_path / "many", records[1:] * 60))
    with pytest.raises(ValueError, match="share of 0.1 of the records may be bad.*101 bad"):
        build_vocabulary.build(source, path=path, size=30, overwrite=True)


def test_a_source_is_files_or_a_builder(source, tmp_path):
    assert isinstance(build_vocabulary.open_source(source.name), sources.TfrecordSource)
    pattern = str(tmp_path / "*.tfrecord")
    opened = build_vocabulary.open_source(pattern, captions="text", image="png")
    assert isinstance(opened, sources.TfrecordSource)
    with pytest.raises(ValueError, match="`pattern` must match at least one file"):
        build_vocabulary.open_source(str(tmp_path / "*.zip"))
    with pytest.raises(ValueError, match="`name` must be a TensorFlow Datasets builder"):
        build_vocabulary.open_source("no_such_dataset", data_dir=str(tmp_path))
