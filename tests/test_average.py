"""Averaged checkpoints: the values, what is refused, and that they can be read back."""

import numpy as np
import pytest

import tiny
from limoe_tf.train import average
from limoe_tf.train.checkpoint import Checkpoints
from tpu_jobs import average_checkpoints


def saved(folder, *, steps=(2, 4, 6), **changes):
    """A run's checkpoints, whose weights are all drawn anew; returns the weights of each."""
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
    with pytest.raises(ValueError, match="that can be read. Received: '.*ckpt-3'"):
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
