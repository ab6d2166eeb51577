"""The schedules: values worked out by hand, a second route in plain Python, and bad arguments."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train import schedule

SCHEDULES = [
    schedule.ReciprocalSquareRoot(
        2e-3, total_steps=1000, warmup_steps=100, timescale=300, cooldown_steps=200
    ),
    schedule.ReciprocalSquareRoot(
        2e-3, total_steps=1000, warmup_steps=0, timescale=7, cooldown_steps=0
    ),
    schedule.Cosine(2e-3, total_steps=1000, warmup_steps=100),
    schedule.Cosine(2e-3, total_steps=1000, warmup_steps=0, cooldown_steps=300),
]


def in_plain_python(chosen, step):
    """The rate by the formulas of the papers, in double precision."""
    rate = chosen.base_learning_rate
    since_warmup = step - chosen.warmup_steps
    if isinstance(chosen, schedule.Cosine):
        progress = min(1, max(0, since_warmup / (chosen.total_steps - chosen.warmup_steps)))
        rate *= (1 + math.cos(math.pi * progress)) / 2
    elif since_warmup >= 0:
        rate /= math.sqrt(1 + since_warmup / chosen.timescale)
    if step < chosen.warmup_steps:
        rate *= step / chosen.warmup_steps
    if chosen.cooldown_steps:
        rate *= min(1, max(0, (chosen.total_steps - step) / chosen.cooldown_steps))
    return rate


def test_reciprocal_square_root_passes_through_the_points_that_name_its_arguments():
    rate = schedule.ReciprocalSquareRoot(
        0.5, total_steps=1000, warmup_steps=100, timescale=300, cooldown_steps=200
    )
    assert float(rate(0)) == 0
    assert float(rate(50)) == pytest.approx(0.25)  # Half of the warm-up.
    assert float(rate(100)) == pytest.approx(0.5)  # The end of the warm-up.
    assert float(rate(400)) == pytest.approx(0.5 / math.sqrt(2))  # One timescale later.
    # Half of the cool-down: sqrt(1 + (900 - 100) / 300) = 1.9149.
    assert float(rate(900)) == pytest.approx(0.5 * 0.5 / 1.9149, rel=1e-4)
    assert float(rate(1000)) == 0
    assert float(rate(1500)) == 0


def test_cosine_passes_through_the_points_that_name_its_arguments():
    rate = schedule.Cosine(0.5, total_steps=1100, warmup_steps=100)
    assert float(rate(25)) == pytest.approx(0.125)
    assert float(rate(100)) == pytest.approx(0.5)
    assert float(rate(600)) == pytest.approx(0.25)  # Half way, cos(pi / 2) = 0.
    assert float(rate(1100)) == pytest.approx(0, abs=1e-7)
    assert float(rate(2000)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("chosen", SCHEDULES)
def test_schedules_agree_with_plain_python_at_every_step(chosen):
    steps = np.arange(0, 1100)
    expected = [in_plain_python(chosen, int(step)) for step in steps]
    np.testing.assert_allclose(chosen(steps), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("chosen", SCHEDULES)
def test_the_rate_is_the_base_rate_times_a_share_between_zero_and_one(chosen):
    steps = tf.range(0, 1100, dtype=tf.int64)
    share = chosen.relative(steps).numpy()
    assert share.min() >= 0 and share.max() <= 1 and share.dtype == np.float32
    np.testing.assert_allclose(chosen(steps), chosen.base_learning_rate * share)


@pytest.mark.parametrize("chosen", SCHEDULES)
def test_schedules_come_back_from_their_config(chosen):
    config = keras.optimizers.schedules.serialize(chosen)
    copy = keras.optimizers.schedules.deserialize(config)
    assert type(copy) is type(chosen) and copy.get_config() == chosen.get_config()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"base_learning_rate": -1.0}, "base_learning_rate=-1.0"),
        ({"total_steps": 0}, "total_steps=0"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"cooldown_steps": -2}, "cooldown_steps=-2"),
        ({"warmup_steps": 60}, "at most total_steps=100. Received: warmup_steps=60"),
    ],
)
@pytest.mark.parametrize("kind", [schedule.ReciprocalSquareRoot, schedule.Cosine])
def test_arguments_out_of_range_are_named(kind, arguments, message):
    good = {"base_learning_rate": 1.0, "total_steps": 100, "warmup_steps": 10, "cooldown_steps": 50}
    with pytest.raises(ValueError, match=message):
        kind(**{**good, **arguments})


def test_a_timescale_of_zero_is_refused():
    with pytest.raises(ValueError, match="timescale=0"):
        schedule.ReciprocalSquareRoot(1.0, 100, warmup_steps=1, timescale=0, cooldown_steps=1)
