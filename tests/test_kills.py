"""A run that is killed and started again ends where it would have ended."""

import signal

import keras
import pytest

import tiny
from benchmarks import kills
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.preemption import EXIT_CODE, StopOnSignal
from record_files import write_pairs
from small_runs import SMALL

STEPS = 30


def test_three_kills_change_nothing(tmp_path):
    files = write_pairs(tmp_path / "pairs", 40)
    bindings = [
        *SMALL,
        f"STEPS = {STEPS}",
        f"TRAIN_FILES = '{files}'",
        f"TEST_FILES = '{files}'",
        "limoe.Limoe.from_size.image_size = 32",
        "limoe.Limoe.from_size.vocabulary_size = 40",
    ]
    done = kills.compare(
        "gin/runs/tfrecord.gin", bindings, tmp_path, kills=3, seed=1, steps=STEPS
    )
    assert len(done) == 3
    assert any("SIGKILL" in line for line in done) and any("SIGTERM" in line for line in done)


class Signals(keras.callbacks.Callback):
    """Sends SIGTERM to this process in the middle of step 2."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:
            signal.raise_signal(signal.SIGTERM)


def test_sigterm_saves_the_last_step_and_ends_the_process(tmp_path, capsys):
    model = tiny.limoe(depth=1, plan=("sparse",))
    model.compile("sgd")
    checkpoints = Checkpoints(model, tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        model.fit(
            tiny.dataset(3), verbose=0, callbacks=[Signals(), StopOnSignal(checkpoints)]
        )
    assert stopped.value.code == EXIT_CODE == 143
    assert checkpoints.latest.endswith("ckpt-2")
    assert "Stopped by SIGTERM" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before


def test_after_training_signals_do_what_they_did(tmp_path):
    model = tiny.limoe(depth=1, plan=("sparse",))
    model.compile("sgd")
    before = signal.getsignal(signal.SIGTERM)
    model.fit(tiny.dataset(1), verbose=0, callbacks=[StopOnSignal(Checkpoints(model, tmp_path))])
    assert signal.getsignal(signal.SIGTERM) == before
