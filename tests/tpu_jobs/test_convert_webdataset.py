import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from limoe_tf.data import batches, sources, words
from tests.shared.record_files import jpeg, write_tar
from tests.shared.small_runs import ROOT
from tpu_jobs import convert_webdataset


@pytest.fixture
def tars(tmp_path):
    """Writes three tars of five samples each; returns their pattern."""
    (tmp_path / "tars").mkdir()
    for shard in range(3):
        members = []
        for i in range(5):
            key = f"{shard:05}{i:04}"
            members += [(f"{key}.jpg", jpeg(10 * shard + i)), (f"{key}.txt", key.encode())]
        write_tar(tmp_path / "tars" / f"{shard:05}.tar", members)
    return str(tmp_path / "tars" / "*.tar")


def run(*arguments, code=None):
    """Runs the job, or Python code in its place, in a process of its own."""
    program = ["-c", code] if code else ["-m", "tpu_jobs.convert_webdataset"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # It returns when the last process that shares the output has ended: so with all workers.
    return subprocess.run([sys.executable, *program, *arguments], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=300, check=False)  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_command_converts_what_training_then_reads(tars, tmp_path):
    write_tar(tmp_path / "tars" / "bad.tar", [("k.jpg", b""), ("k.txt", b"x"), ("m.txt", b"x")])
    cut = tmp_path / "tars" / "cut.tar"
    cut.write_bytes((tmp_path / "tars" / "00000.tar").read_bytes()[:800])
    folder = tmp_path / "data"
    done = run(f"--input={tars}", f"--output_dir={folder}", "--num_workers=2")
    assert "5 tars, 0 of them converted already" in done.stdout
    assert "5 of 5 tars converted, 15 records" in done.stdout
    assert f"15 records of 5 tars in {folder}; left out: 4" in done.stdout
    assert f"  2 x empty image ({tmp_path}/tars/bad.tar: k.jpg, " in done.stdout
    assert done.returncode == 1
    assert done.stderr.startswith("error: Every tar must be whole. Received: 1 that could not be")
    report = json.loads((folder / "report.json").read_text())
    assert (report["tars"], report["records"]) == (5, 15)
    assert report["left_out"]["no image among txt"] == {
        "count": 1,
        "first": [f"{tmp_path}/tars/bad.tar: m.txt"],
    }
    assert report["left_out"]["image is cut off"]["first"] == [f"{cut}: 000000000.jpg"]
    assert list(report["not_read_to_the_end"]) == [str(cut)]
    assert json.loads((folder / "bad.tfrecord.json").read_text())["left_out"] == {
        "empty image": ["k.jpg", "k.txt"],
        "no image among txt": ["m.txt"],
    }

    source = sources.TfrecordSource(f"{folder}/0*.tfrecord")
    captions = list(batches.all_captions(source))
    assert sorted(captions) == [f"{shard:05}{i:04}" for shard in range(3) for i in range(5)]
    path = str(tmp_path / "words.model")
    words.train_vocabulary(captions, path=path, size=20, algorithm="bpe", exact_size=False)
    trained = batches.training_batches(
        source,
        vocabulary=words.Vocabulary(path, text_length=8),
        batch_size=15,
        image_size=16,
        seed=0,
        shuffle_window=15,
    )
    (batch,) = trained.take(1)
    # Noise of 0 to 7 is added to the colours 0, ..., 4, 10, ..., 14, 20, ..., 24.
    means = sorted(tf.reduce_mean(tf.cast(batch["image"], tf.float32), [1, 2, 3]).numpy())
    colours = [10 * shard + i + 3.5 for shard in range(3) for i in range(5)]
    assert means == pytest.approx(colours, abs=1)


# Kills the job before or after a call of `name` in `place`, the `number`th one.
KILLED = """
import os, signal, sys
import tensorflow as tf
from limoe_tf.data import webdataset
from tpu_jobs import convert_webdataset

place, name, number = eval(sys.argv[3]), sys.argv[4], int(sys.argv[5])
real, calls = getattr(place, name), []

def call(*arguments, **settings):
    calls.append(arguments)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **settings)

setattr(place, name, call)
convert_webdataset.convert(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize(
    "place, name, number, left",
    [
        # The third record of the second tar; its file at its end; its note, which comes after that.
        ("webdataset", "_example", 8, {"00001.tfrecord.partial"}),
        ("tf.io.gfile", "rename", 3, {"00001.tfrecord.partial"}),
        ("tf.io.gfile", "rename", 4, {"00001.tfrecord", "00001.tfrecord.json.partial"}),
    ],
)
def test_a_killed_job_goes_on_to_the_same_bytes(place, name, number, left, tars, tmp_path, capsys):
    convert_webdataset.convert(tars, str(tmp_path / "whole"))
    folder = tmp_path / "killed"
    assert run(tars, str(folder), place, name, str(number), code=KILLED).returncode == -9
    finished = {"00000.tfrecord", "00000.tfrecord.json"}
    assert set(contents(folder)) == finished | left
    os.utime(folder / "00000.tfrecord", (1, 1))
    capsys.readouterr()
    convert_webdataset.convert(tars, str(folder))
    assert "3 tars, 1 of them converted already" in capsys.readouterr().out
    assert (folder / "00000.tfrecord").stat().st_mtime == 1
    assert contents(folder) == contents(tmp_path / "whole")


def test_workers_end_with_a_killed_job(tars, tmp_path):
    code = (
        "import os, signal, sys; from tpu_jobs import convert_webdataset as job\n"
        "tasks = [(tar, f'{sys.argv[2]}/{i}', {'image': ['jpg'], 'caption': 'txt'})\n"
        "         for i, tar in enumerate(sys.argv[1].split(','))]\n"
        "for _ in job._converted(tasks, 2):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    paths = ",".join(tf.io.gfile.glob(tars))
    (tmp_path / "data").mkdir()
    done = run(paths, str(tmp_path / "data"), code=code)
    assert done.returncode == -9
    assert any(name.endswith(".json") for name in contents(tmp_path / "data"))


def test_what_has_changed_is_converted_again_and_nothing_else(tars, tmp_path, capsys):
    folder = tmp_path / "data"
    convert_webdataset.convert(tars, str(folder))
    outputs = [folder / f"{shard:05}.tfrecord" for shard in range(3)]

    def made_again(**settings):
        for path in outputs:
            os.utime(path, (1, 1))
        convert_webdataset.convert(tars, str(folder), **settings)
        return [path.stat().st_mtime != 1 for path in outputs]

    assert made_again() == [False, False, False]
    os.utime(tmp_path / "tars" / "00001.tar", (2, 2))
    assert made_again() == [False, True, False]
    write_tar(tmp_path / "tars" / "00002.tar", [("a.jpg", jpeg()), ("a.txt", b"new")])
    os.utime(tmp_path / "tars" / "00002.tar", (2, 2))
    capsys.readouterr()
    assert made_again() == [False, False, True]
    assert "1 tars, or the flags, have changed: converted again" in capsys.readouterr().out
    assert json.loads((folder / "report.json").read_text())["records"] == 11
    outputs[0].write_bytes(b"")
    assert made_again() == [True, False, False]
    assert made_again(image=["jpg"]) == [True, True, True]


def test_a_tar_that_is_not_whole_is_an_error_each_time(tars, tmp_path):
    cut = tmp_path / "tars" / "00001.tar"
    cut.write_bytes(cut.read_bytes()[:-10_000])
    for _ in range(2):
        with pytest.raises(ValueError, match="1 that could not be read to the end .*00001.tar: "):
            convert_webdataset.convert(tars, str(tmp_path / "data"))


@pytest.mark.parametrize(
    "members, settings, message",
    [
        ([("a.jpg", b"x"), ("a.txt", b"")], {}, "Some samples must have an image and a caption"),
        ([], {"num_workers": 0}, "`num_workers` must be at least 1"),
    ],
)
def test_what_cannot_be_converted_is_an_error(members, settings, message, tmp_path):
    tar = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(ValueError, match=message):
        convert_webdataset.convert(tar, str(tmp_path / "data"), **settings)


def test_tars_that_are_missing_or_of_one_name_are_an_error(tars, tmp_path):
    with pytest.raises(ValueError, match="--input must match at least one file"):
        convert_webdataset.convert(str(tmp_path / "none*"), str(tmp_path / "data"))
    (tmp_path / "more").mkdir()
    write_tar(tmp_path / "more" / "00000.tar", [])
    with pytest.raises(ValueError, match="distinct file names. Received: .*/00000.tar and another"):
        convert_webdataset.convert(str(tmp_path / "*" / "*.tar"), str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()
