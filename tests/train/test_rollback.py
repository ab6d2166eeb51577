"""A run whose steps are not finite goes back, leaves batches out, and gives up after some tries."""

import json
import signal

import numpy as np
import pytest
import tensorflow as tf

import gin
from limoe_tf.data.batches import training_batches
from limoe_tf.train.rollback import Rollbacks
from limoe_tf.train.watch import TooManySkipped
from tests.shared.record_files import write_pairs
from tests.shared.small_runs import ROOT, SMALL
from tpu_jobs import gin_files, train

STEPS = 12


@pytest.fixture(scope="module")
def bindings(tmp_path_factory):
    files = write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 40)
    return [
        *SMALL,
        f"STEPS = {STEPS}",
        f"TRAIN_FILES = '{files}'",
        f"TEST_FILES = '{files}'",
        "limoe.Limoe.from_size.image_size = 32",
        "limoe.Limoe.from_size.depth = 1",
        'limoe.Limoe.from_size.plan = ("sparse",)',
        "limoe.Limoe.from_size.vocabulary_size = 40",
        "experiment.Experiment.max_skipped = 1",
        "experiment.Experiment.checkpoint_every_steps = 3",
    ]


class Reader:
    """Stands for `training_batches`; poisons the batches of some numbers and notes what is read."""

    def __init__(self, poisoned):
        self.poisoned, self.starts = tf.constant(poisoned, tf.int64), []

    def __call__(self, source, *, start_step, **options):
        self.starts.append(start_step)
        batches = training_batches(source, start_step=start_step, **options)
        return batches.enumerate(start_step).map(self.as_float)

    def as_float(self, number, batch):
        poison = tf.where(tf.reduce_any(number == self.poisoned), np.nan, 1.0)
        return {**batch, "image": tf.cast(batch["image"], tf.float32) / 255 * poison}


class Interrupt:
    """A task that interrupts the run when it is called for the n-th time."""

    def __init__(self, interrupt, call):
        self.interrupt, self.calls_before = interrupt, call - 1

    def __call__(self, model, vocabulary):
        if not self.calls_before:
            self.interrupt()
        self.calls_before -= 1
        return {}


def fail():
    raise KeyboardInterrupt


def terminate():
    signal.raise_signal(signal.SIGTERM)


def run(folder, bindings, reader, task=None, every_steps=None):
    gin_files.parse([str(ROOT / "gin/runs/tfrecord.gin")], bindings)
    experiment = gin_files.build()
    gin.clear_config()
    experiment.training_batches = reader
    experiment.tasks, experiment.evaluate_every_steps = {}, every_steps
    if task is not None:
        experiment.tasks = {"task": task}
    return train.train(experiment, str(folder))


def last_checkpoint(folder):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints" / f"ckpt-{STEPS}"))
    names = reader.get_variable_to_shape_map()
    return {
        name: reader.get_tensor(name)
        for name in names
        if name.startswith(("model/", "optimizer/", "seeds/", "run/"))
    }


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(bindings, tmp_path_factory):
    """A run past two bad stretches, of which one skipped step between does not count."""
    folder, reader = tmp_path_factory.mktemp("whole") / "run", Reader([1, 4, 5, 10, 11])
    run(folder, bindings, reader)
    return folder, reader


def test_a_run_goes_back_and_past_what_is_not_finite(whole):
    folder, reader = whole
    # Steps 5 and 6 read batches 4 and 5, so the run goes back to step 3 and on with batch 6. Then
    # steps 8 and 9 read batches 10 and 11, so it goes back to step 6, whose batches ended with 8.
    assert reader.starts == [0, 6, 12]
    found = last_checkpoint(folder)
    done = json.loads(found["run/left_out/.ATTRIBUTES/VARIABLE_VALUE"])
    assert [(one["step"], one["first_batch"], one["next_batch"]) for one in done] == [
        (3, 3, 6),
        (6, 9, 12),
    ]
    assert "step 5: loss=nan, gradient_norm=nan; step 6: " in done[0]["found"]
    for name, value in found.items():
        if isinstance(value, np.ndarray):
            assert np.isfinite(value).all(), name
    # One line a step; of the steps that were rolled back, that of the second time.
    assert [line["step"] for line in lines(folder)] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines(folder) if line["loss"] is None] == [2]


@pytest.mark.parametrize(
    "interrupt, every_steps, call",
    [
        (terminate, 4, 1),  # Just before the bad stretch; its checkpoint is not gone back to.
        (fail, 4, 2),  # After going back, before the next checkpoint.
        (fail, 8, 1),  # After going back and the next checkpoint, within the second stretch.
    ],
)
def test_a_run_interrupted_around_going_back_ends_with_the_same_bits(
    whole, bindings, tmp_path, interrupt, every_steps, call
):
    task = Interrupt(interrupt, call)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path, bindings, Reader([1, 4, 5, 10, 11]), task, every_steps)
    assert (tmp_path / "checkpoints" / "ckpt-4.index").exists() == (interrupt is terminate)
    run(tmp_path, bindings, Reader([1, 4, 5, 10, 11]))
    wanted, found = last_checkpoint(whole[0]), last_checkpoint(tmp_path)
    assert wanted.keys() == found.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    for one, another in zip(lines(whole[0]), lines(tmp_path), strict=True):
        assert {**one, "seconds": 0} == {**another, "seconds": 0}


def test_a_run_gives_up_after_some_tries_and_names_each(bindings, tmp_path):
    reader = Reader(list(range(4, 100)))
    more = [*bindings, "experiment.Experiment.max_rollbacks = 2"]
    with pytest.raises(ValueError, match="max_skipped=1") as stopped:
        run(tmp_path, more, reader)
    # From step 3 batch 6 and 7 are read, then 8 and 9.
    assert reader.starts == [0, 6, 8]
    message = str(stopped.value)
    assert "2 skipped in a row, among them step 4: loss=nan, gradient_norm=nan; step 5: " in message
    assert "max_rollbacks=2 times, and has: to step 3, leaving out batches 3 to 5, for " in message
    assert "to step 3, leaving out batches 3 to 7, for step 4: loss=nan" in message


def test_a_run_that_may_not_go_back_stops_at_once():
    error = TooManySkipped("Too many", first_step=4, last_step=5, found="step 4: loss=nan")
    message = "Too many; the run may go back max_rollbacks=0 times, and has: never"
    with pytest.raises(ValueError, match=message):
        Rollbacks(0).go_back(None, error, every_steps=3)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`max_rollbacks` must be .* Received: max_rollbacks=-1"):
        Rollbacks(-1)
