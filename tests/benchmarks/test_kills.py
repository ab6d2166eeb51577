"""A run that is killed and started again ends where it would have ended."""

import resource
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import kills
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.preemption import EXIT_CODE, StopOnSignal, exit_when_cut_off
from tests.shared import tiny
from tests.shared.record_files import write_pairs
from tests.shared.small_runs import ROOT, SMALL, call, the_error
from tpu_jobs import command, gin_files, train

STEPS = 30


def pair_bindings(files, *, steps):
    """Returns the bindings of a small run of tfrecord.gin."""
    return [
        *SMALL,
        f"STEPS = {steps}",
        f"TRAIN_FILES = '{files}'",
        f"TEST_FILES = '{files}'",
        "limoe.Limoe.from_size.image_size = 32",
        "limoe.Limoe.from_size.vocabulary_size = 40",
    ]


def test_three_kills_change_nothing(tmp_path):
    bindings = pair_bindings(write_pairs(tmp_path / "pairs", 40), steps=STEPS)
    done = kills.compare("gin/runs/tfrecord.gin", bindings, tmp_path, kills=3, seed=1, steps=STEPS)
    assert len(done) == 3
    assert {line.split()[0] for line in done} == {"SIGKILL", "SIGTERM", "SIGINT"}


class Signals(keras.callbacks.Callback):
    """Sends SIGTERM to this process in the middle of step 2."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:
            signal.raise_signal(signal.SIGTERM)


def test_sigterm_while_steps_are_skipped_saves_nothing(tmp_path):
    model = tiny.limoe(depth=1, plan=("sparse",))
    model.compile("sgd")
    model.logit_scale_log.assign(np.nan)
    with pytest.raises(SystemExit):
        model.fit(
            tiny.dataset(3),
            verbose=0,
            callbacks=[Signals(), StopOnSignal(Checkpoints(model, tmp_path))],
        )
    assert int(model.optimizer.iterations) == 2
    assert not list(tmp_path.glob("*.index"))


def test_a_signal_between_two_fits_of_which_the_first_failed_counts(tmp_path):
    model = tiny.limoe(depth=1, plan=("sparse",))
    model.compile("sgd")
    stop = StopOnSignal(Checkpoints(model, tmp_path))
    before = signal.getsignal(signal.SIGTERM)

    def fail(batch, logs):
        raise KeyError

    failing = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    with pytest.raises(KeyError):
        model.fit(tiny.dataset(3), verbose=0, callbacks=[failing, stop])
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        model.fit(tiny.dataset(3), verbose=0, callbacks=[stop])
    assert int(model.optimizer.iterations) == 2
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("kind", [tf.errors.AbortedError, tf.errors.UnavailableError])
def test_a_lost_host_ends_the_process_as_a_signal_does(tmp_path, capsys, kind):
    model = tiny.limoe(depth=1, plan=("sparse",))
    model.compile("sgd")
    checkpoints = Checkpoints(model, tmp_path)
    path = checkpoints.save()
    with pytest.raises(SystemExit) as stopped, exit_when_cut_off(checkpoints):
        raise kind(None, None, "Socket closed")
    assert stopped.value.code == EXIT_CODE
    shown = capsys.readouterr().out
    assert "(Socket closed)" in shown and f"goes on from {path}." in shown


class FullDisk:
    """A task after which no file of this process can grow over 60 kB, as on a full disk."""

    def __call__(self, model, vocabulary):
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        return {}


def test_a_full_disk_is_an_error_and_the_checkpoint_before_it_is_gone_on_with(
    tmp_path, monkeypatch, capsys
):
    files = write_pairs(tmp_path / "pairs", 40)
    bindings = pair_bindings(files, steps=4)
    gin_files.parse([str(ROOT / "gin/runs/tfrecord.gin")], bindings)
    experiment = gin_files.build()
    experiment.tasks, experiment.evaluate_every_steps = {"full": FullDisk()}, 3
    monkeypatch.setattr(command, "read", lambda: (experiment, str(tmp_path / "run")))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        assert call(train, "", "", []) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = the_error(capsys)
    assert "Could not write a checkpoint" in message and "File too large" in message
    assert "The last whole one is" in message and "ckpt-2'" in message
    monkeypatch.undo()
    assert call(train, ROOT / "gin/runs/tfrecord.gin", tmp_path / "run", bindings) == 0
    assert "starting at step 2" in capsys.readouterr().out
    assert tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints")).endswith("ckpt-4")


def test_after_training_signals_do_what_they_did(tmp_path):
    model = tiny.limoe(depth=1, plan=("sparse",))
    model.compile("sgd")
    before = signal.getsignal(signal.SIGTERM)
    model.fit(tiny.dataset(1), verbose=0, callbacks=[StopOnSignal(Checkpoints(model, tmp_path))])
    assert signal.getsignal(signal.SIGTERM) == before
