"""Jobs on several replicas, and on more of them when started again: the numbers of one."""

import contextlib
import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train import steps
from limoe_tf.train.callbacks import read_records
from tests.shared.small_runs import ROOT, call, flat
from tpu_jobs import evaluate, train

EVERY_SECOND_STEP = [
    f"experiment.Experiment.{name} = 2"
    for name in ("steps_per_execution", "log_every_steps", "checkpoint_every_steps")
]


ONE_BLOCK = [
    "limoe.Limoe.from_size.depth = 1",
    'limoe.Limoe.from_size.plan = ("sparse",)',
    "limoe.Limoe.from_size.group_size = 2",
]


def train_on(replicas, folder, bindings):
    return call(train, ROOT / "gin/runs/quickstart.gin", folder, bindings, replicas=replicas)


@contextlib.contextmanager
def no_tasks():
    """Leaves the tasks of runs out, which take as long as the training."""
    compiled = train._compiled

    def without(experiment, workdir):
        experiment.tasks.clear()
        return compiled(experiment, workdir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_compiled", without)
        yield


@pytest.fixture(scope="module")
def of_one_replica(shapes_run, tmp_path_factory):
    """Trains one replica in groups that several could have; returns folder and bindings."""
    folder = tmp_path_factory.mktemp("one")
    bindings = [*shapes_run[1], *ONE_BLOCK, *EVERY_SECOND_STEP]
    with no_tasks():
        assert train_on(1, folder, bindings) == 0
    return folder, bindings


def assert_ends_equal(one, another):
    """Weights within 1e-4 and losses within a share of 1e-4 of each other, after six steps."""
    expected, found = (
        tf.train.load_checkpoint(str(folder / "checkpoints" / "ckpt-6"))
        for folder in (one, another)
    )
    shapes_of = expected.get_variable_to_shape_map()
    assert found.get_variable_to_shape_map() == shapes_of
    for name in set(shapes_of) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}:
        if "key/bias" not in name and name.startswith("model/"):
            value = expected.get_tensor(name)
            np.testing.assert_allclose(found.get_tensor(name), value, atol=1e-4, err_msg=name)
    expected, found = (read_records(str(folder / "metrics.jsonl")) for folder in (one, another))
    assert [r["step"] for r in found] == [r["step"] for r in expected]
    np.testing.assert_allclose([r["loss"] for r in found], [r["loss"] for r in expected], rtol=1e-4)


def test_replicas_that_share_the_experts_train_and_evaluate_as_one(of_one_replica, tmp_path):
    one, bindings = of_one_replica
    assert train_on(4, tmp_path, bindings) == 0
    assert_ends_equal(one, tmp_path)
    # One device evaluates what four have trained.
    assert call(evaluate, ROOT / "gin/runs/quickstart.gin", tmp_path, bindings) == 0
    trained = json.loads((tmp_path / "results.json").read_text())
    evaluated = json.loads((tmp_path / "evaluation.json").read_text())
    for name in ("zero_shot", "retrieval"):
        found, expected = flat(evaluated[name]), flat(trained[name])
        assert set(found) == set(expected)
        for path, number in found.items():
            # Rounding may swap two neighbours in rank: one image of 30 at most, which may be the
            # only one of its class, of ten or more, and a place for the median.
            room = {"median_rank": 1.0, "mean_per_class": 0.1}
            atol = next((room[kind] for kind in room if kind in path), 0.034)
            assert number == pytest.approx(expected[path], abs=atol), path


def test_a_stopped_run_goes_on_with_more_replicas_as_one_would(
    of_one_replica, tmp_path, monkeypatch
):
    one, bindings = of_one_replica
    make = train._callbacks

    def stopping(experiment, *others):
        def stop(batch, logs):
            if steps.updates(experiment.model) < 6:
                signal.raise_signal(signal.SIGTERM)

        return [*make(experiment, *others), keras.callbacks.LambdaCallback(on_train_batch_end=stop)]

    monkeypatch.setattr(train, "_callbacks", stopping)
    with no_tasks():
        for replicas, step in ((1, 2), (2, 4)):
            with pytest.raises(SystemExit):
                train_on(replicas, tmp_path, bindings)
            latest = tf.train.latest_checkpoint(str(tmp_path / "checkpoints"))
            assert latest.endswith(f"ckpt-{step}")
        assert train_on(4, tmp_path, bindings) == 0
    assert_ends_equal(one, tmp_path)
