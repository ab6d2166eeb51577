"""The watch over a run: when it stops, when it warns, and when it does neither."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train.watch import CollapseWatch, StopWhenSkipping
from tests.shared import tiny

MODALITIES = ("image", "text")


def run_with_logs(callback, records, *, steps_per_call=1, first_step=0):
    """Shows a callback the logs of calls, as Keras does in one epoch."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.build((1, 1))
    model.compile("sgd")
    model.optimizer.iterations.assign(first_step)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    for number, logs in enumerate(records, 1):
        model.optimizer.iterations.assign_add(steps_per_call)
        callback.on_train_batch_end(number * steps_per_call - 1, logs)


def skipped(*flags):
    values = {0: (1.5, 2.0), 1: (np.nan, np.inf)}
    return [
        {"skipped": flag, "loss": values[flag][0], "gradient_norm": values[flag][1]}
        for flag in flags
    ]


def test_skipped_steps_in_a_row_stop_training_and_are_named():
    message = re.escape(
        "max_skipped=2 + 1 steps. Received: 3 skipped in a row, among them "
        "step 103: loss=nan, gradient_norm=inf; step 104: "
    )
    with pytest.raises(ValueError, match=message):
        run_with_logs(StopWhenSkipping(2), skipped(1, 0, 1, 1, 1), first_step=100)


def test_skipped_steps_with_others_between_do_not_stop_training():
    run_with_logs(StopWhenSkipping(2), skipped(1, 1, 0, 1, 1, 0))


def test_calls_of_several_steps_count_as_several():
    run_with_logs(StopWhenSkipping(8), skipped(1, 1), steps_per_call=4)
    with pytest.raises(ValueError, match="8 skipped in a row, among them step 4: .*; step 8: "):
        run_with_logs(StopWhenSkipping(7), skipped(1, 1), steps_per_call=4)


@pytest.mark.parametrize("detailed_logs", [False, True])
def test_a_model_with_a_poisoned_weight_stops(detailed_logs):
    model = tiny.limoe(depth=1, plan=("dense",))
    model.compile("sgd", detailed_logs=detailed_logs)
    model.logit_scale_log.assign(np.nan)
    batches = tf.data.Dataset.from_tensors(tiny.batch(4)).repeat(9)
    with pytest.raises(ValueError, match="4 skipped in a row, among them step 1: loss=nan"):
        model.fit(batches, verbose=0, callbacks=[StopWhenSkipping(3)])


def rates(*values):
    return [{"success_rate_image": 0.4, "success_rate_text": value} for value in values]


def test_a_modality_that_stays_low_is_warned_of_once():
    with pytest.warns(UserWarning) as caught:
        run_with_logs(CollapseWatch(0.3, patience_steps=3), rates(0.2, 0.5, *[0.2] * 8))
    (warning,) = caught
    assert "70% of the choices of modality 'text' for 3 steps; success_rate_text is 0.200" in str(
        warning.message
    )


def test_a_modality_that_recovers_in_time_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_with_logs(CollapseWatch(0.3, patience_steps=3), rates(0.2, 0.2, 0.3, 0.2, 0.2))


def entropies(*values):
    """Logs of two layers of 4 and 9 experts, where images stay high and texts have these values."""
    return [
        {
            **{f"block_{i}/marginal_entropy_image": 1.2 for i in (1, 3)},
            **{f"block_{i}/marginal_entropy_text": value for i in (1, 3)},
            **{f"block_1/tokens_{modality}": np.ones(4) for modality in MODALITIES},
            **{f"block_3/tokens_{modality}": np.ones(9) for modality in MODALITIES},
        }
        for value in values
    ]


def test_a_modality_left_with_few_experts_in_a_layer_is_warned_of_once():
    watch = CollapseWatch(entropy_threshold=0.5, patience_steps=3)
    # Half of log(4) is log(2) = 0.69, of log(9) it is log(3) = 1.10: of the second layer alone.
    with pytest.warns(UserWarning) as caught:
        run_with_logs(watch, entropies(0.7, 0.9, 1.2, *[0.7] * 8))
    (warning,) = caught
    expected = "as few as 2.0 of 9 experts for 3 steps; block_3/marginal_entropy_text is 0.700"
    assert expected in str(warning.message)


def test_the_logs_of_a_model_say_how_many_experts_it_uses():
    model = tiny.limoe(depth=1, plan=("sparse",))
    model.compile("sgd", detailed_logs=True)
    # No distribution over 4 experts reaches more than log(4), so all are under a share of 1.
    with pytest.warns(UserWarning, match="experts for 2 steps; block_00/marginal_entropy_"):
        model.fit(
            tiny.dataset(2),
            verbose=0,
            callbacks=[CollapseWatch(0, entropy_threshold=1, patience_steps=2)],
        )


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`max_skipped` must be .* Received: max_skipped=-1"):
        StopWhenSkipping(-1)
    with pytest.raises(ValueError, match="`threshold` must be between 0 and 1"):
        CollapseWatch(1.5)
    with pytest.raises(ValueError, match="`entropy_threshold` must be between 0 and 1"):
        CollapseWatch(entropy_threshold=-0.1)
    with pytest.raises(ValueError, match="`patience_steps` must be"):
        CollapseWatch(patience_steps=0)
