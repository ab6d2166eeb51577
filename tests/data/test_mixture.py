"""Mixtures: exact shares in every batch, the same batches for any number of readers."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, mixture, sources
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.labels import LabelCaptions
from limoe_tf.data.mixture import Mixture
from limoe_tf.train.callbacks import ScalarLog
from tests.data.test_batches import assert_same, images_drawn, numbers
from tests.data.test_hosts import AUGMENTED, SETTINGS, parts_of
from tests.shared import tiny
from tests.shared.record_files import example, jpeg, write, write_pairs
from tpu_jobs import train

FIRST_OF_B = 100


def training(source, **settings):
    return batches.training_batches(source, **{"vocabulary": numbers, **SETTINGS, **settings})


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Images 0 to 39 in A, of which windows of 20 are no multiple of 6 rows; 100 to 110 in B."""
    folder = tmp_path_factory.mktemp("parts")
    return {
        "A": sources.TfrecordSource(write_pairs(folder / "a", 40)),
        "B": sources.TfrecordSource(write_pairs(folder / "b", 11, first=FIRST_OF_B)),
    }


@pytest.fixture(scope="module")
def mixed(parts):
    return Mixture(parts, weights={"A": 0.75, "B": 0.25})


@pytest.fixture(scope="module")
def of_one_device(mixed):
    return list(training(mixed, **AUGMENTED).take(16))


def test_each_batch_holds_the_shares_exactly(mixed):
    drawn = images_drawn(training(mixed), 60)
    assert ((drawn >= FIRST_OF_B).sum(axis=1) == 2).all()
    # 360 rows of A are 9 epochs, 120 of B are 10 and 10 records of the next.
    counts = Counter(drawn.flat)
    assert {counts[i] for i in range(40)} == {9}
    assert {counts[FIRST_OF_B + i] for i in range(11)} <= {9, 10, 11, 12}


def test_weights_are_a_ratio(parts, mixed):
    same = Mixture(parts, weights={"B": 1, "A": 3})
    assert_same(training(mixed).take(3), training(same).take(3))
    three = Mixture({**parts, "C": parts["A"]}, weights={"A": 1 / 3, "B": 1 / 3, "C": 1 / 3})
    assert three.rows(9) == {"A": 3, "B": 3, "C": 3}
    assert Mixture(parts, weights={"A": 0.9, "B": 0.1}).rows(20) == {"A": 18, "B": 2}


@pytest.mark.parametrize("weights", [{"A": 3, "B": 1}, {"A": 1, "B": 1}, {"A": 1, "B": 7}])
def test_the_rows_of_a_part_are_spread_evenly_over_replicas(parts, weights):
    rows = Mixture(parts, weights=weights).rows(64)
    places = {
        part.name: part.places
        for part in mixture.parts_of(Mixture(parts, weights=weights), batch_size=64, seed=0)
    }
    assert sorted(places["A"] + places["B"]) == list(range(64))
    for replicas in (2, 4, 8):
        for name, count in rows.items():
            shares = np.histogram(places[name], replicas, (0, 64))[0]
            assert set(shares) == {count // replicas}


def test_parts_of_the_same_records_are_read_in_orders_of_their_own(parts):
    both = Mixture({"one": parts["A"], "two": parts["A"]}, weights={"one": 1, "two": 1})
    places = {part.name: part.places for part in mixture.parts_of(both, batch_size=8, seed=5)}
    drawn = images_drawn(training(both, shuffle_window=40), 10)
    one, two = drawn[:, places["one"]].ravel(), drawn[:, places["two"]].ravel()
    assert sorted(one) == sorted(two) == list(range(40))
    assert (one != two).sum() > 20


@pytest.mark.parametrize("start_step", [1, 5, 13])
def test_a_later_start_gives_the_same_batches(mixed, of_one_device, start_step):
    # Step 13 is in the second epoch of A and the third of B, within windows of both.
    later = training(mixed, start_step=start_step, num_threads=1, **AUGMENTED)
    assert_same(of_one_device[start_step:], later.take(16 - start_step))


# With 8 replicas of one row each, only two of them have a row of B.
@pytest.mark.parametrize("hosts, replicas", [(1, 4), (2, 2), (2, 8), (4, 4), (4, 8)])
def test_the_global_batches_are_those_of_one_device(mixed, of_one_device, hosts, replicas):
    found = parts_of(
        mixed, hosts=hosts, replicas=replicas, num_batches=5, start_step=3, **AUGMENTED
    )
    assert_same(of_one_device[3:8], found)


def test_bad_records_are_counted_by_part_and_held_to_the_limits_by_part(tmp_path, parts):
    bad = [example(jpg=b"", caption=[b"image 0 caption 0"])] * 5
    valid = [example(jpg=jpeg(i), caption=[b"image 200 caption 0"]) for i in range(5)]
    broken = sources.TfrecordSource(write(tmp_path / "c", valid + bad))
    source = Mixture({"A": parts["A"], "C": broken}, weights={"A": 3, "C": 1})
    bad_records = BadRecords()
    drawn = images_drawn(training(source, bad_records=bad_records, shuffle_window=10), 5)
    assert ((drawn == 200).sum(axis=1) == 2).all()
    path = tmp_path / "c"
    assert bad_records.report().startswith("A: no bad records; C: 5 bad among the first 10 records")
    assert f"x empty image ({path} record " in bad_records.report()
    assert bad_records.count == bad_records.reasons["empty image"] >= 5
    strict = BadRecords(max_share=0.2, min_records=10)
    with pytest.raises(ValueError, match="At most a share of 0.2 .* 3 x empty image"):
        with strict.as_value_error():
            list(training(source, bad_records=strict, shuffle_window=10).take(5))


def test_a_vocabulary_learns_from_the_captions_of_all_parts(tmp_path, parts):
    labelled = sources.TfrecordSource(
        write(tmp_path / "l", [example(jpg=jpeg(), label=[1])]), captions=None, labels="label"
    )
    named = LabelCaptions(labelled, class_names=["dog", "cat"])
    source = Mixture({"B": parts["B"], "names": named}, weights={"B": 1, "names": 1})
    captions = list(batches.all_captions(source))
    assert len(captions) == 2 * 11 + 1
    assert captions[-1] == "cat" and "image 110 caption 1" in captions


def test_the_pairs_of_a_run_are_reported_by_part(mixed, capsys):
    experiment = SimpleNamespace(train_source=mixed, batch_size=4000, bad_records=BadRecords())
    train._report_data(experiment, 3)
    assert capsys.readouterr().out == "9,000 pairs from A\n3,000 pairs from B\nno bad records\n"


def test_the_pairs_so_far_are_logged_by_part(mixed, parts, tmp_path):
    model = tiny.limoe(depth=1, plan=("sparse",))
    model.compile("sgd")
    experiment = SimpleNamespace(train_source=mixed, batch_size=8, model=model)
    for num_batches in (3, 2):  # The second goes on where the first ended.
        callbacks = [*train._count_pairs(experiment), ScalarLog(tmp_path, every_steps=1)]
        model.fit(tiny.dataset(num_batches), verbose=0, shuffle=False, callbacks=callbacks)
    logs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [(log["pairs/A"], log["pairs/B"]) for log in logs]
    assert found == [(6, 2), (12, 4), (18, 6), (24, 8), (30, 10)]
    experiment.train_source = parts["A"]
    assert train._count_pairs(experiment) == []  # One source is no mixture.


def test_pairs_are_counted_by_part(mixed, parts):
    counts = mixture.num_pairs(mixed, batch_size=8, num_steps=10)
    assert counts == {"A": 60, "B": 20}
    one = parts["A"]
    assert mixture.num_pairs(one, batch_size=8, num_steps=10) == {one.name: 80}


def test_a_batch_that_cannot_hold_the_shares_is_refused(parts):
    source = Mixture(parts, weights={"A": 0.7, "B": 0.3})
    message = (
        "`batch_size` must be a multiple of 10, so that each batch can hold the shares "
        "{'A': '7/10', 'B': '3/10'} exactly. Received: batch_size=8"
    )
    with pytest.raises(ValueError) as error:
        training(source)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "changes, weights, kind, message",
    [
        ({}, {"A": 1}, ValueError, "`weights` must have one number for each of the parts"),
        ({}, {"A": 1, "B": 0}, ValueError, r"`weights\['B'\]` must be at least"),
        ({}, {"A": 1, "B": "1"}, TypeError, r"`weights\['B'\]` must be a number"),
        ({"B": "mixture"}, {"A": 1, "B": 1}, TypeError, "A part must not be a Mixture"),
        (
            {"A": "texts", "B": "labels"}, {"A": 1, "B": 1}, ValueError,
            r"must have captions. Received: without images \['A'\], without captions \['B'\]",
        ),
    ],
)  # fmt: skip
def test_parts_and_weights_that_do_not_fit_are_errors(parts, changes, weights, kind, message):
    others = {
        "mixture": Mixture({"A": parts["A"]}, weights={"A": 1}),
        "labels": sources.TfrecordSource(parts["A"].name, captions=None, labels="label"),
        "texts": sources.TfrecordSource(parts["A"].name, image=None),
    }
    changed = {**parts, **{name: others[key] for name, key in changes.items()}}
    with pytest.raises(kind, match=message):
        Mixture(changed, weights=weights)


@pytest.fixture(scope="module")
def lone(parts):
    """Mixtures of images alone, and of texts alone; the parts of both have both."""
    equal = {"weights": {"A": 1, "B": 1}}
    paths = {name: part.name for name, part in parts.items()}
    images = {name: sources.TfrecordSource(path, captions=None) for name, path in paths.items()}
    texts = {name: sources.TfrecordSource(path, image=None) for name, path in paths.items()}
    return {"images": Mixture(images, **equal), "texts": Mixture(texts, **equal)}


def test_images_alone_and_texts_alone_are_mixed(lone):
    images, texts = lone["images"], lone["texts"]
    assert (images.has_images, images.has_captions) == (True, False)
    assert (texts.has_images, texts.has_captions) == (False, True)
    whole = list(training(images, vocabulary=None).take(4))
    assert set(whole[0]) == {"image"}
    assert_same(whole[2:], training(images, vocabulary=None, start_step=2).take(2))
    # Image i has the grey i and a little noise.
    shares = [(np.mean(batch["image"], axis=(1, 2, 3)) > FIRST_OF_B).sum() for batch in whole]
    assert shares == [4] * 4
    drawn = images_drawn(training(texts, image_size=None), 4)
    assert ((drawn >= FIRST_OF_B).sum(axis=1) == 4).all()
    assert len(list(batches.all_captions(texts))) == 2 * 51


def test_what_a_part_lacks_is_refused_early_and_the_part_named(parts, lone):
    mixed = Mixture({"A": parts["A"], "T": lone["texts"].parts["B"]}, weights={"A": 1, "T": 1})
    assert set(training(mixed, image_size=None).element_spec) == {"text", "text_valid"}
    with pytest.raises(ValueError, match=r"have images to train on. .*A \+ T, without them: 'T'$"):
        training(mixed)
    mixed = Mixture({"A": parts["A"], "I": lone["images"].parts["B"]}, weights={"A": 1, "I": 1})
    with pytest.raises(ValueError, match="must have captions to train on. .*, without them: 'I'$"):
        training(mixed)
    with pytest.raises(ValueError, match="must have captions to read. .*, without them: 'I'$"):
        next(batches.all_captions(mixed))
    assert set(training(mixed, vocabulary=None).element_spec) == {"image"}


def test_a_mixture_is_for_training_only(mixed):
    with pytest.raises(TypeError, match="`source` must be one source, not a Mixture"):
        batches.evaluation_batches(mixed, batch_size=4, image_size=4)


def test_shapes_are_static(mixed):
    spec = training(mixed).element_spec["image"]
    assert spec == tf.TensorSpec([8, 12, 12, 3], tf.uint8)
