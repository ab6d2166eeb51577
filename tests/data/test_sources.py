import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from limoe_tf.data import sources
from limoe_tf.data.records import raw_records
from tests.shared.record_files import example, jpeg, picture, write, write_pairs


class PairsOfSources(tfds.core.GeneratorBasedBuilder):
    """Captions as in `coco_captions`, and every other form that a source can read."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
            "title": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "objects": {"kinds": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=4))},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(8):
            yield (
                i,
                {
                    "image": picture(i),
                    "captions": [{"id": c, "text": f"image {i} caption {c}"} for c in range(i)],
                    "title": f"title {i}",
                    "label": i % 2,
                    "objects": {"kinds": [i % 4, 3]},
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def read(source):
    """Returns the records of a source as NumPy values."""
    return [
        {key: value.numpy() for key, value in source.parse(record).items()}
        for _, _, record in raw_records(source)
    ]


def test_a_builder_is_built_and_nested_captions_are_read(data_dir):
    source = sources.TfdsSource(
        "pairs_of_sources", split="train", captions="captions/text", data_dir=data_dir
    )
    records = read(source)
    assert sorted(len(record["captions"]) for record in records) == list(range(8))
    for record in records:
        assert record["image"].startswith(b"\x89PNG")
        expected = [f"image {len(record['captions'])} caption {c}".encode() for c in range(8)]
        assert list(record["captions"]) == expected[: len(record["captions"])]


def test_single_captions_and_labels_are_lists_of_one(data_dir):
    source = sources.TfdsSource(
        "pairs_of_sources", split="train", captions="title", labels="label", data_dir=data_dir
    )
    assert source.label_names == ["cat", "dog"]
    for record in read(source):
        (caption,), (label,) = record["captions"], record["labels"]
        assert label == int(caption.split()[-1]) % 2


def test_nested_labels_are_read_without_captions(data_dir):
    source = sources.TfdsSource(
        "pairs_of_sources",
        split="train",
        captions=None,
        labels="objects/kinds",
        data_dir=data_dir,
    )
    assert not source.has_captions
    assert sorted(tuple(record["labels"]) for record in read(source)) == sorted(
        (i % 4, 3) for i in range(8)
    )
    assert "captions" not in read(source)[0]


def test_texts_of_a_builder_are_read_without_images(data_dir):
    source = sources.TfdsSource(
        "pairs_of_sources", split="train", image=None, captions="title", data_dir=data_dir
    )
    assert not source.has_images and source.has_captions
    records = read(source)
    assert {tuple(record) for record in records} == {("captions",)}
    assert sorted(record["captions"].tolist() for record in records) == [
        [f"title {i}".encode()] for i in range(8)
    ]


def test_a_part_of_a_split_holds_the_records_that_tfds_gives_it(data_dir):
    def titles(split):
        source = sources.TfdsSource(
            "pairs_of_sources", split=split, captions="title", data_dir=data_dir
        )
        return [record["captions"][0] for record in read(source)]

    expected = tfds.load("pairs_of_sources", split="train[25%:75%]", data_dir=data_dir)
    assert titles("train[25%:75%]") == [one["title"] for one in expected.as_numpy_iterator()]
    assert len(titles("train[25%:75%]")) == 4


@pytest.mark.parametrize(
    "values, message",
    [
        ({"name": "pairs_of_nothing"}, "`name` must be a TensorFlow Datasets builder"),
        ({"split": "test"}, r"`split` must be one of pairs_of_sources's, \['train'\]"),
        ({"split": "train[a:]"}, "`split` must be one of"),
        ({"image": "title"}, "`image` must be an image feature"),
        ({"image": "picture"}, "A feature must be one of .*'captions', 'image'.* 'picture'"),
        ({"captions": "captions/words"}, "A feature must be one of .* 'captions/words'"),
        ({"captions": "title/text"}, "A feature must be one of .* 'title/text'"),
    ],
)
def test_what_a_builder_does_not_have_is_an_error(values, message, data_dir):
    values = {"name": "pairs_of_sources", "split": "train", "captions": "title", **values}
    with pytest.raises(ValueError, match=message):
        sources.TfdsSource(values.pop("name"), data_dir=data_dir, **values)


def test_more_features_of_a_builder_are_read_as_they_are_and_images_stay_encoded(data_dir):
    fields = {"question": "title", "answers": "captions/text", "other_image": "image"}
    source = sources.TfdsSource(
        "pairs_of_sources",
        split="train",
        captions=None,
        labels="label",
        fields={**fields, "kinds": "objects/kinds", "label": "label"},
        data_dir=data_dir,
    )
    assert not source.has_captions and source.label_names == ["cat", "dog"]
    for record in read(source):
        number = int(record["question"].split()[-1])
        assert record["question"] == f"title {number}".encode()
        assert len(record["answers"]) == number
        assert record["other_image"] == record["image"] != b""
        assert record["kinds"].tolist() == [number % 4, 3]
        assert record["label"] == record["labels"][0] == number % 2
        assert record["label"].dtype == np.int64 and record["label"].shape == ()


@pytest.mark.parametrize("fields", [{"image": "image"}, {"labels": "title"}, {"a": "words"}])
def test_fields_that_a_builder_does_not_have_or_that_are_named_otherwise_are_errors(
    fields, data_dir
):
    message = "`fields` must have other names than|A feature must be one of .* 'words'"
    with pytest.raises(ValueError, match=message):
        sources.TfdsSource("pairs_of_sources", split="train", fields=fields, data_dir=data_dir)
    with pytest.raises(TypeError, match="`fields` must be a dict"):
        sources.TfdsSource("pairs_of_sources", split="train", fields=["title"], data_dir=data_dir)


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_tfrecords_are_read_gzip_or_not(compression, tmp_path):
    write_pairs(tmp_path / "a.tfrecord", 3, compression=compression)
    write_pairs(tmp_path / "b.tfrecord", 2, compression=compression)
    source = sources.TfrecordSource(str(tmp_path / "*.tfrecord"), labels="label")
    places = [(path.numpy(), number.numpy()) for path, number, _ in raw_records(source)]
    assert [number for _, number in places] == [0, 1, 2, 0, 1]
    assert [path[-10:] for path, _ in places] == [b"a.tfrecord"] * 3 + [b"b.tfrecord"] * 2
    records = read(source)
    assert records[1]["image"] == jpeg(1)
    assert list(records[1]["captions"]) == [b"image 1 caption 0", b"image 1 caption 1"]
    assert list(records[1]["labels"]) == [1]


def test_keys_can_be_named_and_empty_captions_do_not_count(tmp_path):
    record = example(png=b"bytes", keywords=[b"", b"cat", b"  ", b"pet"])
    source = sources.TfrecordSource(
        write(tmp_path / "a", [record]), image="png", captions="keywords"
    )
    (record,) = read(source)
    assert record["image"] == b"bytes"
    assert list(record["captions"]) == [b"cat", b"pet"]


def test_tfrecords_of_texts_need_no_image(tmp_path):
    records = [example(caption=b"a cat"), example(caption=[b"a dog", b" "], jpg=b"not read")]
    path = write(tmp_path / "a", records)
    source = sources.TfrecordSource(path, image=None)
    assert not source.has_images and sources.TfrecordSource(path).has_images
    assert [{key: list(value) for key, value in record.items()} for record in read(source)] == [
        {"captions": [b"a cat"]},
        {"captions": [b"a dog"]},
    ]


def test_more_features_of_tfrecords_are_read_and_of_images_there_is_one(tmp_path):
    records = [
        b"garbage",
        example(jpg=b"left"),
        example(jpg=b"left", right=b"right", q=b"where", answers=[b"here", b"there"], n=[3]),
        example(jpg=b"left", right=b"right", q=b"what"),
    ]
    path = write(tmp_path / "a", records)
    fields = {"question": "q", "answers": "answers", "other_image": "right", "number": "n"}
    source = sources.TfrecordSource(path, captions=None, fields=fields)
    record = {key: value.numpy() for key, value in source.parse(records[2]).items()}
    assert record["other_image"] == b"right" and record["image"] == b"left"
    assert list(record["question"]) == [b"where"]
    assert list(record["answers"]) == [b"here", b"there"]
    assert list(record["number"]) == [3] and record["number"].dtype == np.int64
    assert source.parse(records[3])["answers"].shape == (0,)
    with pytest.raises(tf.errors.InvalidArgumentError, match="right"):
        source.parse(records[1])


def test_a_field_that_no_tfrecord_has_is_an_error(tmp_path):
    path = write(tmp_path / "a", [example(jpg=b"bytes", caption=b"text")])
    for key in ("question", "text"):
        message = rf"A field must be a feature of the records of .*'{key}'; .*'caption', 'jpg'"
        with pytest.raises(ValueError, match=message):
            sources.TfrecordSource(path, fields={"question": key})


def test_a_pattern_without_files_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"`pattern` must match at least one file.*\*\.tfrecord"):
        sources.TfrecordSource(str(tmp_path / "*.tfrecord"))


def test_files_without_records_are_an_error(tmp_path):
    write(tmp_path / "a.tfrecord", [])
    write(tmp_path / "b.tfrecord", [])
    source = sources.TfrecordSource(str(tmp_path / "*.tfrecord"))
    with pytest.raises(ValueError, match="at least one record. Received: .*empty"):
        raw_records(source)


def test_files_that_are_no_tfrecords_are_an_error(tmp_path):
    (tmp_path / "a.tfrecord").write_text("jpg,caption\n" * 100)
    message = rf"must be TFRecords. Received: {tmp_path}/a.tfrecord \(text\)"
    with pytest.raises(ValueError, match=message):
        sources.TfrecordSource(str(tmp_path / "a.tfrecord"))


def test_records_that_are_no_examples_are_errors_of_tensorflow(tmp_path):
    source = sources.TfrecordSource(write_pairs(tmp_path / "a.tfrecord", 1))
    for record in (b"", example(png=b"x", caption=b"y"), example(jpg=[1])):
        with pytest.raises(tf.errors.InvalidArgumentError):
            source.parse(record)
    with pytest.raises(tf.errors.DataLossError):
        source.parse(b"garbage")
