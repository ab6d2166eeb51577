import os

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, images
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import raw_records
from limoe_tf.data.words import Vocabulary, train_vocabulary
from limoe_tf.downstream.examples import Examples
from tests.shared.record_files import jpeg


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 60 images, "0.jpg" to "59.jpg"."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(60):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    return folder


def captioned(folder, numbers):
    return [
        {"image": str(folder / f"{i}.jpg"), "captions": [f"picture {i}", " ", f"a {i}"], "id": i}
        for i in numbers
    ]


def read(source):
    return [
        {name: value.numpy() for name, value in source.parse(record).items()}
        for _, _, record in raw_records(source)
    ]


def test_fields_come_back_as_they_were_and_images_as_bytes(folder, tmp_path):
    others = {"other_image": str(folder / "9.jpg"), "statement": "größer"}
    examples = [
        {"image": str(folder / f"{i}.jpg"), "answers": answers, "label": i, "places": [i], **others}
        for i, answers in enumerate(([], ["yes", ""]))
    ]
    source = Examples(examples, name="two", cache_dir=tmp_path, label_names=["a", "b"])
    assert source.has_images and not source.has_captions and not source.has_labels
    assert source.num_examples == 2 and source.label_names == ["a", "b"] and source.left_out == {}
    for number, record in enumerate(read(source)):
        assert record["image"] == jpeg(number) and record["other_image"] == jpeg(9)
        assert list(record["answers"]) == [[], [b"yes", b""]][number]
        assert record["statement"].decode() == "größer"
        assert record["label"] == number and record["label"].dtype == np.int64
        assert record["places"].tolist() == [number]


def test_captions_and_labels_are_lists_without_blank_captions(tmp_path):
    examples = [{"captions": "one", "labels": 3}, {"captions": "\t", "labels": 4}]
    source = Examples(examples, name="texts", cache_dir=tmp_path)
    assert not source.has_images and source.has_captions and source.has_labels
    assert list(batches.all_captions(source)) == ["one"]
    assert batches.all_labels(source) == [[3], [4]]


def test_the_file_is_written_once_and_named_by_its_content(folder, tmp_path):
    first = Examples(captioned(folder, range(3)), name="a", cache_dir=tmp_path).files[0].path
    os.utime(first, (1, 1))
    assert (
        Examples(captioned(folder, range(3)), name="b", cache_dir=tmp_path).files[0].path == first
    )
    assert os.stat(first).st_mtime == 1
    other = Examples(captioned(folder, (0, 2, 1)), name="a", cache_dir=tmp_path).files[0].path
    assert other != first
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, (first, other)))
    assert os.path.getsize(first) < 500, "paths, not images"


def test_without_a_folder_it_is_among_temporary_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = Examples(captioned(folder, range(3)), name="a").files[0].path
    assert path.startswith(f"{tmp_path}/limoe_tf_examples_")


def test_long_lists_are_read_in_runs_that_are_shuffled(tmp_path):
    examples = [{"text": "x" * (i % 7), "number": i} for i in range(2500)]
    source = Examples(examples, name="long", cache_dir=tmp_path)
    assert [(run.first, run.count) for run in source.files] == [
        (0, 1024),
        (1024, 1024),
        (2048, 452),
    ]
    numbers = [int(record["number"]) for record in read(source)]
    assert numbers != list(range(2500)) and sorted(numbers) == list(range(2500))
    # A block of 16 of each run in turn.
    assert numbers[:48] == [*range(16), *range(1024, 1040), *range(2048, 2064)]
    assert RecordIndex().runs(source)[1].count == 1024


def pictures(source, vocabulary, bad_records=None, **others):
    return batches.training_batches(
        source,
        vocabulary=vocabulary,
        batch_size=8,
        image_size=16,
        seed=5,
        shuffle_window=24,
        bad_records=bad_records,
        **others,
    )


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("words") / "words.model")
    texts = [f"picture {i} a" for i in range(60)]
    train_vocabulary(texts, path=path, size=30, exact_size=False)
    return Vocabulary(path, text_length=8)


def test_training_resumes_in_the_same_order_past_files_that_are_gone(folder, vocabulary, tmp_path):
    examples = captioned(folder, range(60))
    gone = {7, 20, 41}
    for number in gone:
        examples[number]["image"] = str(tmp_path / f"gone-{number}.jpg")
    source = Examples(examples, name="pictures", cache_dir=tmp_path)
    bad_records = BadRecords()
    first = list(pictures(source, vocabulary, bad_records).take(12).as_numpy_iterator())
    assert bad_records.count >= len(gone)
    for number in gone:
        reason = (
            f"image file cannot be read ({tmp_path}/gone-{number}.jpg; No such file or directory)"
        )
        assert bad_records.reasons[reason] >= 1
    resumed = pictures(source, vocabulary, start_step=7).take(5).as_numpy_iterator()
    for before, after in zip(first[7:], resumed):
        for name in ("image", "text", "text_valid"):
            np.testing.assert_array_equal(before[name], after[name])


def test_images_are_not_read_where_nobody_asks_for_them(tmp_path):
    examples = [{"image": str(tmp_path / "gone.jpg"), "captions": ["a"]} for _ in range(5)]
    source = Examples(examples, name="gone", cache_dir=tmp_path)
    bad_records = BadRecords()
    assert list(batches.all_captions(source, bad_records=bad_records)) == ["a"] * 5
    assert bad_records.count == 0


def test_a_second_image_that_is_damaged_is_named(folder, tmp_path):
    (tmp_path / "damaged.jpg").write_bytes(jpeg()[:90])
    (tmp_path / "page.jpg").write_bytes(b"<html>not found</html>")
    examples = [
        {"image": str(folder / "1.jpg"), "other_image": path}
        for path in (str(folder / "2.jpg"), str(tmp_path / "page.jpg"), str(tmp_path), "")
    ]
    source = Examples(examples, name="pairs", cache_dir=tmp_path)
    bad_records = BadRecords()

    def load(_, record):
        return images.evaluation_image(source.parse(record)["other_image"], size=8)

    assert len(list(batches.each_once(source, load, bad_records))) == 1
    assert bad_records.reasons["image cannot be decoded (HTML)"] == 1
    assert bad_records.count == 3


@pytest.mark.parametrize(
    "examples, error, message",
    [
        ([], ValueError, "must hold at least one. Received: none of some"),
        (
            [{"a": "b"}, {"b": "b"}],
            ValueError,
            r"the fields \['a'\]. Received: \['b'\] in example 1",
        ),
        ([{"a": 1}, {"a": "b"}], TypeError, "the same in all examples. Received: 'a', of int, str"),
        ([{"a": [1]}, {"a": ["b"]}], TypeError, "'a', of list of int, list of str"),
        ([{"a": [1, "b"]}], TypeError, "'a', of list of int and str"),
        ([{"a": True}], TypeError, "'a', of bool"),
        ([{"a": 1.5}], TypeError, "'a', of float"),
        ([{"a": 1}, {"a": [1]}], TypeError, "'a', of int, list of int"),
        ([{"image": 1}], TypeError, "An image must be the path of its file. Received: 'image'"),
        ([{"left_image": ["a"]}], TypeError, "'left_image', of list of str"),
        ([{"a": "\udc80"}], ValueError, "A text must be Unicode. Received: example 0"),
    ],
)
def test_examples_of_other_forms_are_errors(examples, error, message, tmp_path):
    with pytest.raises(error, match=message):
        Examples(examples, name="some", cache_dir=tmp_path)
    assert not os.listdir(tmp_path)


def test_a_record_of_another_file_is_an_error_of_tensorflow(tmp_path):
    source = Examples([{"a": "b"}], name="some", cache_dir=tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError):
        source.parse(b"garbage")
