"""Signals during training: a checkpoint of the last step, and the exit code."""

import os
import queue
import signal

import keras
import pytest
import tensorflow as tf

from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.preemption import StopOnSignal


class Toy(keras.Model):
    """One weight, moved without a graph."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(1,), name="weight")
        self.built = True

    def train_step(self, data):
        self.optimizer.apply([tf.ones(1)], [self.weight])
        return {"loss": 0.0}


def trained(folder, *callbacks):
    model = Toy()
    model.compile("sgd", run_eagerly=True)
    checkpoints = Checkpoints(model, folder)
    data = tf.data.Dataset.from_tensors([0.0]).repeat(4)
    model.fit(data, verbose=0, callbacks=[*callbacks, StopOnSignal(checkpoints)])
    return model


class Raises(keras.callbacks.Callback):
    """Sends a signal in the middle of step 2."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:
            signal.raise_signal(self.number)


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_a_signal_saves_the_last_step_and_ends_the_process(tmp_path, capsys, number, code):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as stopped:
            trained(tmp_path, Raises(number))
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert stopped.value.code == code
    assert sorted(path.name for path in tmp_path.glob("*.index")) == ["ckpt-2.index"]
    assert f"Stopped by {signal.Signals(number).name}. The same" in capsys.readouterr().out


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert int(trained(tmp_path, Raises(signal.SIGINT)).optimizer.iterations) == 4
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path, monkeypatch, capfd):
    ended = queue.Queue()
    monkeypatch.setattr(os, "_exit", ended.put)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = StopOnSignal(Checkpoints(trained(tmp_path), tmp_path))
    try:
        stop.on_train_begin()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(queue.Empty):
            ended.get(timeout=0.1)
        # The thread that counts does not wait for a step to end.
        signal.raise_signal(signal.SIGINT)
        assert ended.get(timeout=60) == 130
    finally:
        stop.on_train_end()
        signal.signal(signal.SIGINT, before)
    assert "once more ends at once" in capfd.readouterr().err
