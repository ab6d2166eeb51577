"""Steps are those of the optimizer, however many of them one call runs."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from limoe_tf.train.steps import StepCount, was_skipped


def model_at(step):
    return SimpleNamespace(optimizer=SimpleNamespace(iterations=tf.Variable(step)))


@pytest.mark.parametrize(
    "step, in_call, passed",
    [(10, 1, True), (11, 1, False), (12, 4, True), (14, 4, False), (24, 15, True)],
)
def test_a_call_passes_a_multiple_that_lies_within_it(step, in_call, passed):
    model = model_at(step - in_call)
    count = StepCount(model)
    model.optimizer.iterations.assign(step)
    count.advance()
    assert (count.step, count.in_call, count.passes(10)) == (step, in_call, passed)


def test_only_logs_that_say_so_mean_a_skipped_step():
    assert was_skipped({"loss": 1.0, "skipped": 1.0})
    assert not was_skipped({"loss": 1.0, "skipped": 0.0})
    assert not was_skipped({"loss": 1.0}) and not was_skipped(None)
