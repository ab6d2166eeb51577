from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, sources
from limoe_tf.data.bad_records import BadRecords
from tests.shared import tiny
from tests.shared.record_files import example, jpeg, write, write_pairs

NUM_RECORDS = 40
SETTINGS = {"batch_size": 8, "image_size": 12, "seed": 5, "shuffle_window": 20}


def numbers(captions):
    """Stands for a vocabulary: "image 7 caption 1" becomes the tokens 7 and 1."""
    words = tf.strings.split(captions).to_tensor(shape=[captions.shape[0], 4])
    text = tf.strings.to_number(tf.gather(words, [1, 3], axis=1), tf.int32)
    return text, tf.ones_like(text, tf.bool)


def training(source, **settings):
    return batches.training_batches(source, **{"vocabulary": numbers, **SETTINGS, **settings})


def images_drawn(dataset, num_batches):
    """Returns the numbers of the images in some batches, <int>[num_batches, B]."""
    return np.array([batch["text"][:, 0] for batch in dataset.take(num_batches)])


def assert_same(some, others):
    for batch, other in zip(some, others, strict=True):
        for key, values in batch.items():
            np.testing.assert_array_equal(values, other[key])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return sources.TfrecordSource(write_pairs(folder / "a", NUM_RECORDS), labels="label")


@pytest.fixture
def broken(tmp_path):
    """A source of 30 valid records and one bad record of each kind, here and there."""
    good = [example(jpg=jpeg(i), caption=f"image {i} caption 0".encode()) for i in range(30)]
    whole = jpeg(99, height=60, width=60)
    bad = {
        3: example(jpg=whole[: len(whole) // 2], caption=b"image 99 caption 0"),
        8: example(jpg=b"", caption=b"image 99 caption 0"),
        9: example(jpg=whole),
        10: example(jpg=whole, caption=[b"", b" "]),
        17: example(photo=whole, caption=b"image 99 caption 0"),
        25: b"no example",
        33: example(jpg=b"<html>not found</html>", caption=b"image 99 caption 0"),
        37: example(jpg=[1], caption=b"image 99 caption 0"),
    }
    records = [bad[i] if i in bad else good.pop() for i in range(38)]
    return sources.TfrecordSource(write(tmp_path / "broken", records))


def test_batches_have_static_shapes_and_images_keep_their_captions(source):
    dataset = training(source)
    assert dataset.element_spec == {
        "image": tf.TensorSpec([8, 12, 12, 3], tf.uint8),
        "text": tf.TensorSpec([8, 2], tf.int32),
        "text_valid": tf.TensorSpec([8, 2], tf.bool),
    }
    for batch in dataset.take(6):
        # Image number i has a mean of i plus noise between 0 and 7.
        means = np.mean(batch["image"], axis=(1, 2, 3))
        np.testing.assert_allclose(means, batch["text"][:, 0].numpy() + 3.5, atol=1.5)


def test_an_epoch_holds_each_record_once_and_no_two_come_in_one_order(source):
    first, second = np.split(images_drawn(training(source, shuffle_window=40), 10), 2)
    assert sorted(first.flat) == sorted(second.flat) == list(range(NUM_RECORDS))
    assert list(first.flat) != sorted(first.flat)
    assert list(first.flat) != list(second.flat)


def test_records_are_shuffled_within_their_window(source):
    first, second = np.split(images_drawn(training(source, batch_size=20), 2), 2)
    assert sorted(first.flat) == list(range(20))
    assert sorted(second.flat) == list(range(20, 40))


def test_files_come_in_another_order_in_each_epoch(tmp_path):
    for file in range(3):
        write_pairs(tmp_path / str(file), 8, first=8 * file)
    source = sources.TfrecordSource(str(tmp_path / "*"))
    # Files are read in blocks of 16 records, so that here each window and batch is one file.
    drawn = images_drawn(training(source, shuffle_window=8), 3 * 6)
    orders = {tuple(epoch) for epoch in drawn.min(axis=1).reshape(6, 3) // 8}
    assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2)}
    assert len(orders) > 1


def test_each_caption_of_an_image_is_drawn(source):
    drawn = Counter(
        tuple(pair) for batch in training(source).take(50) for pair in batch["text"].numpy()
    )
    # 400 draws from 40 images with two captions each: five of each are expected.
    assert len(drawn) > 70
    assert 150 < sum(count for (_, caption), count in drawn.items() if caption) < 250


def test_batches_depend_on_the_seed_and_not_on_threads_or_global_seeds(source):
    settings = {"crop": "random_resized_crop", "flip": True}
    tf.random.set_seed(1)
    expected = list(training(source, num_threads=1, **settings).take(8))
    tf.random.set_seed(2)
    assert_same(expected, training(source, num_threads=4, **settings).take(8))
    other = list(training(source, **{**settings, "seed": 6}).take(8))
    assert any(np.any(a["text"] != b["text"]) for a, b in zip(expected, other))


def test_numbers_are_drawn_for_each_example_and_change_nothing_else(source):
    # 10 batches of 8 are two epochs of 40.
    settings = {"crop": "random_resized_crop", "flip": True}
    dataset = training(source, num_draws=50, **settings)
    assert dataset.element_spec["draws"] == tf.TensorSpec([8, 50], tf.float32)
    found = list(dataset.take(10))
    plain = list(training(source, **settings).take(10))
    assert set(plain[0]) == {"image", "text", "text_valid"}
    assert_same(plain, found)
    draws = np.concatenate([batch["draws"] for batch in found])
    assert draws.min() >= 0 and draws.max() < 1
    # No image has twice the same: of 4,000 numbers few are equal by chance.
    assert len(np.unique(draws)) > 3990
    # Means of 4,000 numbers and of their squares have deviations of 0.0046 and 0.0047.
    assert np.mean(draws) == pytest.approx(1 / 2, abs=0.02)
    assert np.mean(draws**2) == pytest.approx(1 / 3, abs=0.02)
    assert_same(found[7:], training(source, num_draws=50, start_step=7, **settings).take(3))


def test_images_alone_are_those_of_pairs_and_need_no_captions(source, tmp_path):
    mute = [example(jpg=jpeg(i)) for i in range(NUM_RECORDS)]
    # Whether or not the source would have captions: none is asked for.
    without = sources.TfrecordSource(write(tmp_path / "mute", mute))
    bad_records = BadRecords()
    dataset = training(without, vocabulary=None, bad_records=bad_records)
    assert dataset.element_spec == {"image": tf.TensorSpec([8, 12, 12, 3], tf.uint8)}
    assert_same(dataset.take(6), training(source).take(6))
    assert bad_records.count == 0


def test_texts_alone_are_those_of_pairs_and_need_no_images(source, tmp_path):
    captions = [[f"image {i} caption {c}".encode() for c in range(2)] for i in range(NUM_RECORDS)]
    broken = write(tmp_path / "broken", [example(jpg=b"", caption=one) for one in captions])
    texts = write(tmp_path / "texts", [example(caption=one) for one in captions])
    expected = list(training(source).take(6))
    for without in (sources.TfrecordSource(broken), sources.TfrecordSource(texts, image=None)):
        bad_records = BadRecords()
        dataset = training(without, image_size=None, bad_records=bad_records)
        assert dataset.element_spec == {
            "text": tf.TensorSpec([8, 2], tf.int32),
            "text_valid": tf.TensorSpec([8, 2], tf.bool),
        }
        assert_same(dataset.take(6), expected)
        assert bad_records.count == 0


def test_a_bad_text_alone_is_replaced_and_told_without_a_word_of_its_image(tmp_path):
    records = [example(caption=b"image 1 caption 0"), example(caption=b""), b"no example"]
    texts = sources.TfrecordSource(write(tmp_path / "texts", records), image=None)
    bad_records = BadRecords(max_share=0.8)
    dataset = training(texts, image_size=None, bad_records=bad_records)
    assert (images_drawn(dataset, 2) == 1).all()
    assert set(bad_records.reasons) == {"no caption", "not a tf.train.Example"}


def test_batches_without_images_and_texts_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match="must hold images or texts. .*image_size=None, vocab"):
        training(source, image_size=None, vocabulary=None)
    path = write(tmp_path / "texts", [example(caption=b"image 1 caption 0")])
    texts = sources.TfrecordSource(path, image=None)
    with pytest.raises(ValueError, match="A source must have images to train on. .*texts"):
        training(texts)
    with pytest.raises(ValueError, match="A source must have images to evaluate on. .*texts"):
        batches.evaluation_batches(texts, batch_size=8, image_size=12)


@pytest.mark.parametrize("start_step", [1, 13])
def test_a_later_start_gives_the_same_batches(source, start_step):
    # 8 examples a batch and windows of 20: starts lie inside windows and beyond epochs.
    settings = {"crop": "random_resized_crop", "flip": True}
    expected = list(training(source, **settings).take(16))
    assert_same(
        expected[start_step:],
        training(source, start_step=start_step, **settings).take(16 - start_step),
    )


def test_replicas_share_each_batch(source):
    strategy = tiny.strategy_of(2)
    distributed = iter(strategy.experimental_distribute_dataset(training(source)))
    for batch in training(source).take(3):
        for key, value in next(distributed).items():
            parts = strategy.experimental_local_results(value)
            assert [part.shape[0] for part in parts] == [4, 4]
            np.testing.assert_array_equal(tf.concat(parts, axis=0), batch[key])


@pytest.mark.parametrize("crop", ["resize", "random_resized_crop"])
def test_bad_records_are_replaced_counted_and_reported(broken, crop):
    bad_records = BadRecords()
    dataset = training(broken, crop=crop, bad_records=bad_records, shuffle_window=38)
    drawn = images_drawn(dataset, 19)
    # 19 batches of 8 are 4 windows of 38, each of 30 valid records and 8 that come again.
    windows = drawn.reshape(4, 38)
    for window in windows:
        assert set(window) == set(range(30))
        assert max(Counter(window).values()) == 2
    # Reading goes on ahead, so a later window may have been noted as well.
    assert bad_records.count >= 4 * 8
    report = bad_records.report()
    assert "x image cannot be decoded" in report
    assert "broken record 33" in report
    reasons = {reason.split(",")[0] for reason in bad_records.reasons}
    assert reasons == {
        "image cannot be decoded (HTML)",
        "image cannot be decoded (JPEG)",
        "empty image",
        "no caption",
        "not a tf.train.Example",
        "feature missing or of another type",
    }


def test_a_later_start_gives_the_same_batches_among_bad_records(broken):
    expected = list(training(broken).take(12))
    assert_same(expected[7:], training(broken, start_step=7).take(5))


def test_reading_again_counts_nothing_twice(broken):
    bad_records = BadRecords()
    dataset = batches.evaluation_batches(
        broken, batch_size=8, image_size=12, bad_records=bad_records
    )
    for _ in range(2):
        assert sum(batch["image"].shape[0] for batch in dataset) == 30
        assert bad_records.count == 8
    assert bad_records.report().startswith("8 bad among the first 38 records read: ")


def test_too_many_bad_records_stop_the_run(broken):
    # 8 bad ones of 38 are 21 %.
    bad_records = BadRecords(max_share=0.25, min_records=100)
    assert len(list(training(broken, bad_records=bad_records).take(40))) == 40
    bad_records = BadRecords(max_share=0.15, min_records=100)
    message = "At most a share of 0.15 of the records may be bad. Received: .* bad among the first"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(training(broken, bad_records=bad_records).take(100))
    assert "share of 0.15" in str(bad_records.error)


def test_evaluation_gives_each_example_once_with_all_captions_and_labels(source):
    dataset = batches.evaluation_batches(
        source, batch_size=16, image_size=12, vocabulary=numbers, resize="central_crop"
    )
    read = list(dataset)
    assert [batch["image"].shape for batch in read] == [(n, 12, 12, 3) for n in (16, 16, 8)]
    captions = [caption for batch in read for caption in batch["captions"].to_list()]
    assert captions == [
        [f"image {i} caption {c}".encode() for c in range(2)] for i in range(NUM_RECORDS)
    ]
    labels = [label for batch in read for label in batch["labels"].to_list()]
    assert labels == [[i % 3] for i in range(NUM_RECORDS)]
    np.testing.assert_array_equal(read[2]["image_of_text"], np.repeat(np.arange(8), 2))
    np.testing.assert_array_equal(read[2]["text"], [(i, c) for i in range(32, 40) for c in (0, 1)])
    assert np.all(read[2]["text_valid"])


def test_labelled_images_need_no_captions_in_evaluation(source):
    labelled = sources.TfrecordSource(source.name, captions=None, labels="label")
    batch = next(iter(batches.evaluation_batches(labelled, batch_size=4, image_size=8)))
    assert sorted(batch) == ["image", "labels"]
    with pytest.raises(ValueError, match="A source must have captions to train on"):
        training(labelled)
    with pytest.raises(ValueError, match="A source must have captions"):
        next(batches.all_captions(labelled))


def test_all_captions_are_read_without_decoding_images(tmp_path):
    captions = ["zwei Bäume".encode(), b"two trees"]
    source = sources.TfrecordSource(
        write(tmp_path / "a", [example(jpg=b"no image", caption=captions)] * 2)
    )
    assert list(batches.all_captions(source)) == ["zwei Bäume", "two trees"] * 2


def test_an_empty_file_is_an_error_when_the_dataset_is_made(tmp_path):
    source = sources.TfrecordSource(write(tmp_path / "empty", []))
    for make in (
        lambda: training(source),
        lambda: batches.evaluation_batches(source, batch_size=8, image_size=12),
    ):
        with pytest.raises(ValueError, match="A source must hold at least one record"):
            make()


def test_the_area_of_crops_reaches_the_images(source):
    options = {"crop": "random_resized_crop"}
    first, same, other = (
        next(iter(training(source, **options, **area)))["image"].numpy()
        for area in ({}, {"crop_area": (0.08, 1.0)}, {"crop_area": [0.05, 0.06]})
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"image_size": 0}, "`image_size` must be at least 1"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"start_step": -1}, "`start_step` must be at least 0"),
        ({"num_draws": -1}, "`num_draws` must be at least 0"),
        ({"shuffle_window": 7}, "`shuffle_window` must be at least 8"),
        ({"crop": "none"}, "`crop` must be one of"),
        ({"crop_area": (0.5, 0.1)}, "`crop_area` must be two shares"),
    ],
)
def test_arguments_out_of_range_are_errors(source, values, message):
    with pytest.raises(ValueError, match=message):
        training(source, **values)
