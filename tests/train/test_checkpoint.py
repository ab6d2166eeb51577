"""Checkpoints: whole state back in a fresh model, names, models that do not fit, broken files."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.optimizer import Adafactor, AdamW
from tests.shared import tiny


class Block(keras.layers.Layer):
    """Layers with and without names of their own, in attributes and in a list."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.named = keras.layers.Dense(width, name="attention")
        self.unnamed = [keras.layers.Dense(width), keras.layers.Dense(width)]
        self.dropout = keras.layers.Dropout(0.5)

    def build(self, shape):
        for layer in [self.named, *self.unnamed]:
            layer.build(shape)

    def call(self, values, training=None):
        for layer in [self.named, *self.unnamed]:
            values = layer(values)
        return self.dropout(values, training=training)


class Tower(keras.Model):
    def __init__(self, depth=2, width=5):
        super().__init__()
        self.blocks = [Block(width, name=f"block_{i:02d}") for i in range(depth)]
        self.mean = keras.metrics.Mean(name="mean")

    def call(self, values, training=None):
        for block in self.blocks:
            values = block(values, training=training)
        return values


def compiled_tower(make_optimizer=Adafactor, **kwargs):
    model = Tower(**kwargs)
    model(tf.zeros([1, 5]))
    model.compile(make_optimizer(learning_rate=0.01), loss="mse", run_eagerly=True)
    return model


def train(model, steps):
    for step in steps:
        random = np.random.default_rng(step)
        batch = random.normal(size=(4, 5)).astype("float32")
        model.train_on_batch(batch, batch[:, ::-1])


def state(model):
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.parametrize("make_optimizer", [Adafactor, AdamW])
def test_a_fresh_model_goes_on_where_the_saved_one_stopped(tmp_path, make_optimizer):
    model = compiled_tower(make_optimizer)
    train(model, range(3))
    Checkpoints(model, tmp_path).save()
    train(model, range(3, 5))

    other = compiled_tower(make_optimizer)
    assert Checkpoints(other, tmp_path).restore_latest() == 3
    train(other, range(3, 5))
    # Dropout too: the random seeds are part of the checkpoint.
    for one, another in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(one, another)


def test_names_are_paths_without_the_numbers_that_keras_counts_up(tmp_path):
    compiled_tower()  # Uses up dense, dense_1, ...
    path = Checkpoints(compiled_tower(depth=11), tmp_path).save()
    names = {
        name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        for name, _ in tf.train.list_variables(path)
    }
    assert names >= {
        "model/block_00/attention/kernel",
        "model/block_00/dense/kernel",
        "model/block_00/dense_1/kernel",
        "model/block_10/dense_1/bias",
        "optimizer/block_10/dense_1/kernel/momentum",
        "optimizer/block_10/dense_1/kernel/second_moment",
        "optimizer/iteration",
        "optimizer/learning_rate",
        "seeds/0",
        "seeds/10",
    }
    assert len(names) == 11 * 6 * 3 + 2 + 11 + 3  # And two texts and the object graph.


def test_the_weights_alone_are_restored_in_a_model_that_is_not_compiled(tmp_path):
    model = compiled_tower()
    train(model, range(2))
    Checkpoints(model, tmp_path).save()
    reader = Tower()
    reader(tf.zeros([1, 5]))
    assert Checkpoints(reader, tmp_path).restore_latest() == 2
    values = tf.ones([3, 5])
    np.testing.assert_array_equal(reader(values), model(values))


def test_the_weights_alone_can_be_asked_for_and_leave_the_optimizer_as_it_is(tmp_path):
    model = compiled_tower(Adafactor)
    train(model, range(2))
    Checkpoints(model, tmp_path).save()
    other = compiled_tower(AdamW)
    checkpoints = Checkpoints(other, tmp_path, weights_only=True)
    assert checkpoints.restore_latest() == 2
    assert int(other.optimizer.iterations) == 0
    np.testing.assert_array_equal(other.weights[0], model.weights[0])
    with pytest.raises(ValueError, match="weights_only=False"):
        checkpoints.save()


def test_weights_move_between_one_replica_and_two(tmp_path):
    strategy = tiny.strategy_of(2)
    with strategy.scope():
        mirrored = compiled_tower()
    one, again = compiled_tower(), compiled_tower()
    train(one, range(2))
    Checkpoints(one, tmp_path / "one").save()
    assert Checkpoints(mirrored, tmp_path / "one").restore_latest() == 2
    Checkpoints(mirrored, tmp_path / "two").save()
    assert Checkpoints(again, tmp_path / "two").restore_latest() == 2
    for variable in mirrored.weights:
        replicas = [v.numpy() for v in strategy.experimental_local_results(variable.value)]
        np.testing.assert_array_equal(replicas[0], replicas[1])
    for before, after in zip(state(one), state(again), strict=True):
        np.testing.assert_array_equal(before, after)


def test_nothing_saved_yet_is_step_zero(tmp_path):
    checkpoints = Checkpoints(compiled_tower(), tmp_path)
    assert checkpoints.restore_latest() == 0 and checkpoints.latest is None


def test_only_the_newest_are_kept(tmp_path):
    model = compiled_tower()
    checkpoints = Checkpoints(model, tmp_path, max_to_keep=2)
    paths = []
    for step in range(3):
        train(model, [step])
        paths.append(checkpoints.save())
    assert [tf.io.gfile.exists(f"{path}.index") for path in paths] == [False, True, True]
    assert checkpoints.latest == paths[-1]
    assert checkpoints.restore(paths[1]) == 2


def cut(data):
    return data[:100]


def cut_at_the_end(data):
    return data[:-1]


def with_a_wrong_byte(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damaged", [cut, cut_at_the_end, with_a_wrong_byte])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damaged):
    model = compiled_tower()
    checkpoints = Checkpoints(model, tmp_path)
    train(model, range(2))
    first = checkpoints.save()
    expected = state(model)
    train(model, range(2, 4))
    second = checkpoints.save()
    data = pathlib.Path(f"{second}.data-00000-of-00001")
    data.write_bytes(damaged(data.read_bytes()))
    with pytest.warns(UserWarning, match=f"{second}' is skipped"):
        assert Checkpoints(model, tmp_path).restore_latest() == 2
    for before, after in zip(expected, state(model), strict=True):
        np.testing.assert_array_equal(before, after)

    tf.io.gfile.remove(f"{first}.index")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="that can be read"):
        Checkpoints(model, tmp_path).restore_latest()


def test_a_checkpoint_half_written_is_not_taken_for_whole(tmp_path):
    # A writer that is killed leaves data without an index, and does not name it as the latest.
    model = compiled_tower()
    train(model, range(1))
    path = Checkpoints(model, tmp_path).save()
    (tmp_path / "ckpt-2.data-00000-of-00001").write_bytes(b"half")
    checkpoints = Checkpoints(model, tmp_path)
    assert checkpoints.latest == path and checkpoints.restore_latest() == 1


def test_the_files_count_and_not_the_state_file_which_is_written_again(tmp_path):
    model = compiled_tower()
    for step in (1, 2):
        train(model, [step])
        path = Checkpoints(model, tmp_path).save()
    (tmp_path / "checkpoint").write_bytes(b"\xff cut")
    other = compiled_tower()
    checkpoints = Checkpoints(other, tmp_path)
    with pytest.warns(UserWarning, match=f"names no checkpoint; what counts .* is {path!r}"):
        assert checkpoints.restore_latest() == 2
    checkpoints.save()
    assert tf.train.latest_checkpoint(str(tmp_path)) == path
    for left in tmp_path.glob("ckpt-*"):
        left.unlink()
    with pytest.raises(ValueError, match="must hold a whole one.*there are checkpoint"):
        Checkpoints(other, tmp_path).restore_latest()


def test_the_newest_is_never_deleted_for_damaged_ones_of_later_steps(tmp_path):
    for step in (7, 8, 9):
        (tmp_path / f"ckpt-{step}.index").write_bytes(b"")
    model = compiled_tower()
    train(model, range(2))
    path = Checkpoints(model, tmp_path, max_to_keep=1).save()
    with pytest.warns(UserWarning, match="ckpt-9' is skipped"):
        assert Checkpoints(model, tmp_path).restore_latest() == 2
    assert tf.train.latest_checkpoint(str(tmp_path)) == path


def test_the_learning_rate_is_the_one_compiled(tmp_path):
    model = compiled_tower()
    train(model, range(2))
    model.optimizer.learning_rate = 0.5
    Checkpoints(model, tmp_path).save()
    other = compiled_tower()
    with pytest.warns(UserWarning, match="rate is 0.01, as compiled, and not 0.5 as in"):
        assert Checkpoints(other, tmp_path).restore_latest() == 2
    assert float(other.optimizer.learning_rate) == pytest.approx(0.01)
    # A schedule takes the place of a number, and a number that of a schedule.
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 10)
    scheduled = compiled_tower(lambda learning_rate: AdamW(schedule))
    assert Checkpoints(compiled_tower(AdamW), tmp_path / "a").save()
    assert Checkpoints(scheduled, tmp_path / "a").restore_latest() == 0
    Checkpoints(scheduled, tmp_path / "b").save()
    assert Checkpoints(compiled_tower(AdamW), tmp_path / "b").restore_latest() == 0


def test_what_an_earlier_version_did_not_save_keeps_its_value(tmp_path):
    model, state = compiled_tower(), tf.Variable("new")
    Checkpoints(model, tmp_path, others={"run/old": tf.Variable("old")}).save()
    others = {"run/old": tf.Variable(""), "run/state": state}
    assert Checkpoints(model, tmp_path, others=others).restore_latest() == 0
    assert (others["run/old"].numpy(), state.numpy()) == (b"old", b"new")


@pytest.mark.parametrize(
    "arguments, fault",
    [
        ({"width": 6}, r"model/block_00/attention/bias: float32\[5\], in the model float32\[6\]"),
        ({"depth": 3}, "not in the checkpoint: model/block_02/attention/kernel"),
        ({"depth": 1}, "not in the model: model/block_01/dense_1/bias"),
        ({"make_optimizer": AdamW}, "not in the checkpoint: optimizer/block_00/.*/velocity"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_the_names_that_differ(
    tmp_path, arguments, fault
):
    Checkpoints(compiled_tower(), tmp_path).save()
    depth, width = arguments.get("depth", 2), arguments.get("width", 5)
    other = Tower(depth=depth, width=width)
    other(tf.zeros([1, width]))
    other.compile(arguments.get("make_optimizer", Adafactor)(learning_rate=0.01))
    before = state(other)
    with pytest.raises(ValueError, match=fault):
        Checkpoints(other, tmp_path).restore_latest()
    for one, another in zip(before, state(other), strict=False):
        np.testing.assert_array_equal(one, another)


def test_a_path_without_checkpoint_is_named(tmp_path):
    with pytest.raises(OSError, match="ckpt-7"):
        Checkpoints(compiled_tower(), tmp_path).restore(tmp_path / "ckpt-7")


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(compiled_tower(), tmp_path / "file" / "checkpoints")
    with pytest.raises(ValueError, match="file/checkpoints"):
        checkpoints.check_writable()
    with pytest.raises(OSError, match="file/checkpoints"):
        checkpoints.save()
    Checkpoints(compiled_tower(), tmp_path / "new" / "checkpoints").check_writable()
    assert list((tmp_path / "new" / "checkpoints").iterdir()) == []


def test_a_model_without_variables_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be built"):
        Checkpoints(Tower(), tmp_path)


def test_at_least_one_checkpoint_is_kept(tmp_path):
    with pytest.raises(ValueError, match="max_to_keep=0"):
        Checkpoints(compiled_tower(), tmp_path, max_to_keep=0)
