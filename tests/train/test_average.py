"""Averaged checkpoints: the values, what is refused, and that they can be read back."""

import keras
import numpy as np
import pytest

from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.train import average
from limoe_tf.train.checkpoint import Checkpoints
from tests.shared import tiny
from tpu_jobs import average_checkpoints


def saved(folder, *, steps=(2, 4, 6), **changes):
    """A run's checkpoints, each with random weights; returns the weights of each."""
    model = tiny.limoe(depth=1, plan=("sparse",), **changes)
    model.compile("sgd")
    checkpoints = Checkpoints(model, folder / "checkpoints")
    found = []
    for step in steps:
        random = np.random.default_rng(step)
        for variable in model.trainable_variables:
            variable.assign(random.normal(size=variable.shape))
        for variable in model.non_trainable_variables:
            variable.assign(step)
        model.optimizer.iterations.assign(step)
        checkpoints.save()
        found.append([v.numpy() for v in model.weights])
    return found


def trained(folder, steps, *, num_replicas=1):
    """Trains to a step with a callback that averages 3 of the last steps; returns the model."""
    keras.utils.set_random_seed(0)
    with tiny.strategy_of(num_replicas).scope():
        mesh = None if num_replicas == 1 else ExpertMesh("data:1;expert:2", spans="replicas")
        model = tiny.limoe(depth=1, plan=("sparse",), group_size=2, expert_mesh=mesh)
        model.compile("sgd")
    run = Checkpoints(model, folder / "checkpoints")
    start = run.restore_latest()
    parts = Checkpoints(model, folder / "averaged" / "parts", max_to_keep=3)
    averaging = average.AverageCheckpoints(
        parts, folder / "averaged", to_step=7, every_steps=2, last=3
    )
    batches = tiny.dataset(8).skip(start).repeat()
    model.fit(batches, steps_per_epoch=steps - start, verbose=0, callbacks=[averaging])
    run.save()
    return model


def weights_at(folder, steps):
    return [restored(folder / "averaged" / "parts" / f"ckpt-{step}", folder)[1] for step in steps]


def check_mean(folder):
    step, found = restored(folder / "averaged" / "ckpt-7-mean-of-3", folder)
    assert step == 7
    for value, *parts in zip(found, *weights_at(folder, (3, 5, 7)), strict=True):
        if value.dtype == np.float32:
            np.testing.assert_allclose(value, np.mean(parts, axis=0), rtol=1e-5, atol=1e-7)
            assert not np.array_equal(value, parts[2]) or not np.any(value)
    return found


def test_training_ends_with_the_mean_also_of_what_was_saved_before_a_stop(tmp_path):
    trained(tmp_path / "whole", 7)
    trained(tmp_path / "stopped", 4)
    trained(tmp_path / "stopped", 7)
    found = zip(check_mean(tmp_path / "whole"), check_mean(tmp_path / "stopped"), strict=True)
    for one, another in found:
        np.testing.assert_array_equal(one, another)


def test_experts_that_replicas_share_are_averaged_whole(tmp_path):
    trained(tmp_path, 7, num_replicas=2)
    check_mean(tmp_path)


def test_steps_that_a_run_has_passed_are_left_out(tmp_path):
    model = trained(tmp_path, 4)
    for path in (tmp_path / "averaged" / "parts").iterdir():
        path.unlink()
    assert int(model.optimizer.iterations) == 4
    trained(tmp_path, 7)
    assert restored(tmp_path / "averaged" / "ckpt-7-mean-of-2", tmp_path)[0] == 7


def test_more_steps_than_there_are_cannot_be_averaged():
    with pytest.raises(ValueError, match="between 1 and to_step=4. Received: last=3"):
        average.AverageCheckpoints(None, "averaged", to_step=4, every_steps=2, last=3)


def restored(path, folder):
    model = tiny.limoe(depth=1, plan=("sparse",))
    step = Checkpoints(model, folder / "other", weights_only=True).restore(path)
    return step, [v.numpy() for v in model.weights]


def test_the_last_checkpoints_become_their_mean_which_a_model_can_read(tmp_path):
    _, second, third = saved(tmp_path)
    path = average_checkpoints.run(tmp_path, last=2)
    step, found = restored(path, tmp_path)
    assert step == 6
    for value, a, b in zip(found, second, third, strict=True):
        if a.dtype == np.float32:
            np.testing.assert_allclose(value, (a + b) / 2, rtol=1e-6, atol=1e-7)
        else:
            assert value == 6  # A counter, of the last.
    assert path == str(tmp_path / "averaged" / "ckpt-6-mean-of-2")


def test_named_checkpoints_are_averaged(tmp_path):
    first, _, third = saved(tmp_path)
    paths = average.newest(tmp_path / "checkpoints", last=3)
    written = average_checkpoints.run(None, paths=paths[::2], output=str(tmp_path / "new" / "mean"))
    assert written == str(tmp_path / "new" / "mean")
    for value, a, b in zip(restored(written, tmp_path)[1], first, third, strict=True):
        if a.dtype == np.float32:
            np.testing.assert_allclose(value, (a + b) / 2, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="`output` must not exist yet"):
        average.average(paths, written)


def test_what_is_missing_is_named(tmp_path):
    saved(tmp_path, steps=(2,))
    (path,) = average.newest(tmp_path / "checkpoints", last=1)
    with pytest.raises(ValueError, match="`last` must be at most .*, 1; .* Received: last=2"):
        average_checkpoints.run(tmp_path, last=2)
    with pytest.raises(OSError, match="Cannot read checkpoint '.*ckpt-3'"):
        average.average([path, path[:-1] + "3"], tmp_path / "mean")
    with pytest.raises(ValueError, match="must name checkpoints. Received: none"):
        average.average([], tmp_path / "mean")
    with pytest.raises(ValueError, match="--run must be given"):
        average_checkpoints.run(None, paths=[path])


def test_checkpoints_of_different_models_are_refused(tmp_path):
    saved(tmp_path / "a", steps=(2,))
    saved(tmp_path / "b", steps=(2,), num_experts=3)
    paths = [average.newest(tmp_path / run / "checkpoints", last=1)[0] for run in "ab"]
    with pytest.raises(ValueError, match=r"of one model .*/a/.* in \['model/.*router/kernel"):
        average.average(paths, tmp_path / "mean")
    assert not list(tmp_path.glob("mean*"))
