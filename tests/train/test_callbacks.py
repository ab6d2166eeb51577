"""The callbacks of a run, each driven by Keras' own `fit`."""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train.callbacks import ProgressLine, SaveCheckpoint, ScalarLog
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.optimizer import Adafactor

NUM_EXPERTS = 3


class Toy(keras.Model):
    """One weight; logs a number, a number per expert and, at step 3, one that is not finite."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(1,), name="weight")
        self.built = True

    def train_step(self, data):
        step = tf.cast(self.optimizer.iterations + 1, tf.float32)
        self.optimizer.apply([tf.ones(1)], [self.weight])
        return {
            "loss": step / 2,
            "accuracy": tf.where(tf.equal(step, 3.0), np.nan, 0.25),
            "block_01/marginal_image": tf.stack([step, 0.0, tf.where(step > 3, np.inf, 1.0)]),
        }

    def test_step(self, data):
        return {"loss": tf.constant(7.0)}


def toy(**kwargs):
    model = Toy()
    model.compile(Adafactor(0.1), **kwargs)
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model, callbacks, *, steps=5, epochs=1, verbose=0, **kwargs):
    data = tf.data.Dataset.from_tensors(tf.zeros([2, 1])).repeat()
    model.fit(
        data,
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=callbacks,
        verbose=verbose,
        shuffle=False,
        **kwargs,
    )


def refuse(word):
    raise ValueError(word)


def records(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_every_nth_step_is_a_line_of_json(tmp_path):
    fit(toy(), [ScalarLog(tmp_path, every_steps=2)], steps=5, epochs=2)
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    assert [line["loss"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[0]["block_01/marginal_image"] == [2, 0, 1]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_what_is_not_finite_is_null(tmp_path):
    fit(toy(), [ScalarLog(tmp_path, every_steps=1)], steps=4)
    lines = records(tmp_path)
    assert [line["accuracy"] for line in lines] == [0.25, 0.25, None, 0.25]
    assert lines[3]["block_01/marginal_image"] == [4, 0, None]


def test_several_steps_a_call_are_counted(tmp_path):
    # Calls end at steps 3, 6, 9 and 12; 4 is passed at 6, 8 at 9, and 12 at 12.
    model = toy(steps_per_execution=3)
    fit(model, [ScalarLog(tmp_path, every_steps=4)], steps=12)
    assert [(line["step"], line["loss"]) for line in records(tmp_path)] == [
        (6, 3),
        (9, 4.5),
        (12, 6),
    ]


def test_a_run_that_goes_on_drops_the_lines_after_its_checkpoint(tmp_path):
    def line(step):
        return json.dumps({"step": step, "seconds": 100.0 * step, "loss": -1.0})

    (tmp_path / "metrics.jsonl").write_text("\n".join(map(line, [2, 4, 6, 8])) + '\n{"step": 1')
    model = toy()
    model.optimizer.iterations.assign(5)
    fit(model, [ScalarLog(tmp_path, every_steps=2)], steps=4)
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert [line["loss"] for line in lines] == [-1, -1, 3, 4]
    assert 400 < lines[2]["seconds"] < 500  # 400 up to the checkpoint, and those of this run.


class Evaluation(keras.callbacks.Callback):
    """Adds a number to the logs of step 3, and to those of the epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            logs["zero_shot/seen"] = 0.5

    def on_epoch_end(self, epoch, logs=None):
        logs["zero_shot/seen"] = 0.5


def test_evaluations_are_written_once_at_their_own_step(tmp_path):
    log = ScalarLog(tmp_path, every_steps=4)
    data = tf.data.Dataset.from_tensors(tf.zeros([2, 1]))
    fit(toy(), [Evaluation(), log], steps=5, validation_data=data)
    assert [(r["step"], "loss" in r, "zero_shot/seen" in r) for r in records(tmp_path)] == [
        (3, True, True),
        (4, True, False),
        (5, False, False),
    ]
    assert records(tmp_path)[2].keys() == {"step", "seconds", "val_loss"}


def test_tensorboard_gets_every_log_by_its_name(tmp_path):
    fit(toy(), [ScalarLog(tmp_path, every_steps=2)], steps=3)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            found[value.tag] = (event.step, tf.make_ndarray(value.tensor))
    assert set(found) == {"loss", "accuracy", "block_01/marginal_image"}
    assert found["loss"] == (2, 1.0)
    step, histogram = found["block_01/marginal_image"]  # Rows of left, right, count.
    assert step == 2 and histogram[:, 2].sum() == NUM_EXPERTS


def test_the_progress_line_shows_chosen_logs_speed_and_time_left(capsys):
    line = ProgressLine(["loss"], batch_size=64, seconds_between_lines=0)
    fit(toy(), [line], steps=3, epochs=2, verbose=1)
    shown = capsys.readouterr().out
    assert "Epoch 2/2" in shown and "3/3" in shown
    assert "loss: 1.5000" in shown and "accuracy" not in shown
    assert "examples/s" in shown and "left in all" in shown.split("Epoch 2/2")[0]
    assert "left in all" not in shown.split("Epoch 2/2")[1]  # The bar's own time says it there.
    assert "\b" not in shown  # Not a terminal.


def test_pairs_per_second_are_the_batch_over_the_time_of_a_step():
    line = ProgressLine(["loss"], batch_size=64)
    line.set_params({"verbose": 0, "epochs": 3, "steps": 100})
    line.on_epoch_begin(0)
    # 64 pairs in half a second; 3 epochs of 100 steps are left: 150 s.
    assert (
        line.progbar._format_time(0.5, "step") == " 500ms/step 128 examples/s 0:02:30 left in all"
    )


def test_a_terminal_gets_one_line_that_is_drawn_again(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fit(toy(), [ProgressLine(["loss"], batch_size=64)], steps=3, verbose=1)
    assert "\r" in capsys.readouterr().out


def test_a_log_that_does_not_exist_cannot_be_shown():
    with pytest.raises(ValueError, match="'accuracy', .*Received: \\['speed'\\]"):
        fit(toy(), [ProgressLine(["loss", "speed"], batch_size=64)])


def test_checkpoints_are_saved_every_n_steps_and_at_the_end(tmp_path):
    model = toy()
    checkpoints = Checkpoints(model, tmp_path, max_to_keep=9)
    fit(model, [SaveCheckpoint(checkpoints, every_steps=4)], steps=5, epochs=2)
    assert {p.name for p in tmp_path.glob("*.index")} == {
        "ckpt-4.index",
        "ckpt-8.index",
        "ckpt-10.index",
    }
    assert checkpoints.restore_latest() == 10


class Skipping(Toy):
    """Says that step 4 was skipped."""

    def train_step(self, data):
        return {**super().train_step(data), "skipped": self.optimizer.iterations == 4}


def test_a_step_that_was_skipped_is_not_saved(tmp_path):
    model = Skipping()
    model.compile(Adafactor(0.1))
    model.optimizer.build(model.trainable_variables)
    saved = []
    checkpoints = Checkpoints(model, tmp_path)
    checkpoints.save = lambda: saved.append(int(model.optimizer.iterations))
    fit(model, [SaveCheckpoint(checkpoints, every_steps=4)], steps=9)
    assert saved == [8, 9]


def test_the_last_step_is_not_saved_twice(tmp_path):
    model = toy()
    saved = []
    checkpoints = Checkpoints(model, tmp_path)
    checkpoints.save = lambda: saved.append(int(model.optimizer.iterations))
    fit(model, [SaveCheckpoint(checkpoints, every_steps=3)], steps=6)
    assert saved == [3, 6]


def test_a_run_that_could_not_save_does_not_begin(tmp_path):
    (tmp_path / "file").write_text("")
    model = toy()
    checkpoints = Checkpoints(model, tmp_path / "file" / "checkpoints")
    with pytest.raises(ValueError, match="`directory`"):
        fit(model, [SaveCheckpoint(checkpoints, every_steps=3)])
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScalarLog("logs", every_steps=0),
        lambda: SaveCheckpoint(None, every_steps=0),
        lambda: ProgressLine(["loss"], batch_size=0),
    ],
)
def test_counts_of_zero_are_refused(make):
    with pytest.raises(ValueError, match="must be at least 1. Received: .*=0"):
        make()
