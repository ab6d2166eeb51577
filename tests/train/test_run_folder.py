"""The folder of a run: what cannot be written to, and one process at a time."""

import signal
import subprocess
import sys
import uuid

import pytest
import tensorflow as tf

from limoe_tf.train import run_folder

# What `held` does, without TensorFlow, which takes long to import.
HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("process of the test", file=file, flush=True)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["lr=[1e-3]", "back\\slash", "a*", "b?"])
def test_a_name_that_is_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="takes for patterns"):
        run_folder.check_writable(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "größe", "x]", "{a,b}", "1e-3", "a=b"])
def test_other_names_are_taken(tmp_path, name):
    run_folder.check_writable(str(tmp_path / name))
    assert list((tmp_path / name).iterdir()) == []


def test_a_place_that_forgets_what_is_written_is_refused(tmp_path, monkeypatch):
    write = tf.io.gfile.GFile.write
    monkeypatch.setattr(tf.io.gfile.GFile, "write", lambda file, text: write(file, ""))
    with pytest.raises(ValueError, match="and read again.*''"):
        run_folder.check_writable(str(tmp_path))


def test_a_held_folder_is_refused_until_its_holder_is_killed(tmp_path):
    path = tmp_path / run_folder.LOCK_FILE
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="held by process of the test$"):
            with run_folder.held(tmp_path):
                pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    for _ in range(2):
        with run_folder.held(tmp_path):
            assert path.read_text().startswith("process ")
            with pytest.raises(ValueError, match="held by process"), run_folder.held(tmp_path):
                pass


def test_in_a_bucket_a_mark_that_changes_is_a_holder_and_one_that_does_not_is_none(capsys):
    folder = f"ram://{uuid.uuid4().hex}"
    path = f"{folder}/{run_folder.LOCK_FILE}"
    tf.io.gfile.makedirs(folder)
    with run_folder.held(folder, seconds_between_beats=0.1):
        assert tf.io.gfile.exists(path) and capsys.readouterr().out == ""
        with pytest.raises(ValueError, match="held by process"):
            with run_folder.held(folder, seconds_between_beats=0.5):
                pass
    assert not tf.io.gfile.exists(path)
    with tf.io.gfile.GFile(path, "w") as file:
        file.write("of one that was killed")
    with run_folder.held(folder, seconds_between_beats=0.01):
        pass
    assert "waiting whether it is still there" in capsys.readouterr().out
