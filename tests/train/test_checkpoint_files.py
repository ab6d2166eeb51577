"""The files of a folder of checkpoints: what is taken for one, and what is refused."""

import pytest
import tensorflow as tf

from limoe_tf.train import checkpoint_files
from limoe_tf.train.checkpoint_files import nested


def write(folder, step, *, iteration=None):
    """Writes a checkpoint that holds nothing but its step."""
    value = tf.Variable(step if iteration is None else iteration, dtype=tf.int64)
    variables = {checkpoint_files.ITERATION: value}
    path = checkpoint_files.path_of(str(folder), step)
    return tf.train.Checkpoint(**nested(variables)).write(path)


def test_steps_are_those_of_index_files_and_of_nothing_else(tmp_path):
    for name in (
        *("ckpt-2.index", "ckpt-10.index", "ckpt-0.index", "ckpt-04.index", "ckpt-5.index.bak"),
        *("ckpt-6.data-00000-of-00001", "ckpt-.index", "xckpt-7.index", "best.index", "checkpoint"),
    ):
        (tmp_path / name).write_bytes(b"")
    assert checkpoint_files.steps_in(str(tmp_path)) == [0, 2, 10]
    assert checkpoint_files.steps_in(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    "name", ["checkpoint", "ckpt-2.data-00000-of-00001", "ckpt-2_temp", "ckpt-2.index"]
)
def test_a_folder_that_has_lost_its_checkpoints_is_refused_by_what_is_left(tmp_path, name):
    checkpoint_files.check_nothing_lost(str(tmp_path))
    # The first save was cut off: nothing is lost.
    (tmp_path / "ckpt-0.data-00000-of-00001").write_bytes(b"half")
    checkpoint_files.check_nothing_lost(str(tmp_path))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"must hold a whole one.*there are {name}$"):
        checkpoint_files.check_nothing_lost(str(tmp_path))


@pytest.mark.parametrize(
    "content, fault",
    [
        (b'model_checkpoint_path: "ckpt-4"\n', None),
        (b'all_model_checkpoint_paths: "a"\nmodel_checkpoint_path: "ckpt-4"\n', None),
        (b"", "names no checkpoint"),
        (b'model_checkpoint_path: "ckpt-', "names no checkpoint"),
        (b"\xff\xfe\x00", "names no checkpoint"),
        (b'model_checkpoint_path: "ckpt-2"\n', "names 'ckpt-2' as the newest"),
        (b'model_checkpoint_path: "/other/ckpt-4"\n', "names '/other/ckpt-4' as the newest"),
        (None, "is missing"),
    ],
)
def test_the_fault_of_a_state_file_is_named(tmp_path, content, fault):
    for step in (2, 4):
        (tmp_path / f"ckpt-{step}.index").write_bytes(b"")
    if content is not None:
        (tmp_path / "checkpoint").write_bytes(content)
    found = checkpoint_files.fault_of_state_file(str(tmp_path))
    assert found == (fault and f"{str(tmp_path / 'checkpoint')!r} {fault}")


def test_a_folder_in_the_place_of_the_state_file_is_a_fault(tmp_path):
    (tmp_path / "ckpt-2.index").write_bytes(b"")
    (tmp_path / "checkpoint").mkdir()
    assert "cannot be read" in checkpoint_files.fault_of_state_file(str(tmp_path))


def test_tensorflow_finds_the_newest_by_the_state_file(tmp_path):
    paths = [write(tmp_path, step) for step in (2, 4)]
    checkpoint_files.write_state_file(str(tmp_path), [2, 4])
    assert tf.train.latest_checkpoint(str(tmp_path)) == paths[-1]
    assert list(tf.train.get_checkpoint_state(str(tmp_path)).all_model_checkpoint_paths) == paths


def test_deleting_leaves_other_steps_alone(tmp_path):
    for step in (1, 11, 12):
        write(tmp_path, step)
    checkpoint_files.delete(str(tmp_path), {1, 12})
    assert checkpoint_files.steps_in(str(tmp_path)) == [11]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_under_the_name_of_another_step_is_not_read(tmp_path):
    assert checkpoint_files.opened(write(tmp_path, 3))[1] == 3
    with pytest.raises(OSError, match="ckpt-5': it holds step 3"):
        checkpoint_files.opened(write(tmp_path, 5, iteration=3))
    with pytest.raises(OSError, match="Cannot read checkpoint"):
        checkpoint_files.opened(tmp_path)  # The folder, not a checkpoint.
    with pytest.raises(ValueError, match="takes for patterns.*ckpt-\\*'"):
        checkpoint_files.opened(tmp_path / "ckpt-*")
