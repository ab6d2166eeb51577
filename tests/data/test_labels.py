"""Captions made of class names."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, sources
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.labels import LabelCaptions
from limoe_tf.data.records import raw_records
from tests.shared.record_files import example, jpeg, write

NAMES = ["dog", "traffic_light", "ball"]


def labelled(path, labels, **others):
    """Returns a source of one record for each list of labels."""
    records = [example(jpg=jpeg(i), label=of_image, **others) for i, of_image in enumerate(labels)]
    return sources.TfrecordSource(write(path, records), captions=None, labels="label")


def captions_drawn(source, num_batches, **settings):
    """Returns the captions of the first batches, in place of tokens."""
    dataset = batches.training_batches(
        source,
        vocabulary=lambda captions: (captions, captions != ""),
        **{"batch_size": 4, "image_size": 4, "seed": 1, "shuffle_window": 8, **settings},
    )
    return [caption.decode() for b in dataset.take(num_batches) for caption in b["text"].numpy()]


@pytest.fixture
def source(tmp_path):
    return labelled(tmp_path / "a", [[2, 0], [1], [0, 1, 2], [2, 2, 0, 2]])


def test_a_caption_names_each_class_once_in_the_order_of_the_record(source):
    found = list(batches.all_captions(LabelCaptions(source, class_names=NAMES)))
    assert found == ["ball, dog", "traffic light", "dog, traffic light, ball", "ball, dog"]


def test_there_is_a_caption_for_each_template_and_training_draws_one(source):
    captions = LabelCaptions(source, class_names=NAMES, templates=("{}", "a photo of {}."))
    assert list(batches.all_captions(captions))[:2] == ["ball, dog", "a photo of ball, dog."]
    drawn = Counter(caption.startswith("a photo of ") for caption in captions_drawn(captions, 50))
    # 200 throws of a coin: four deviations are 28.
    assert 72 < drawn[True] < 128 and drawn[True] + drawn[False] == 200
    assert captions_drawn(captions, 50) == captions_drawn(captions, 50)


def test_shuffled_names_come_in_every_order_that_the_seed_and_the_step_decide(tmp_path):
    source = labelled(tmp_path / "a", [[0, 1, 2]] * 8)
    shuffled = LabelCaptions(source, class_names=NAMES, order="shuffled")
    drawn = captions_drawn(shuffled, 30)
    # 120 draws of 6 orders: 20 of each are expected, with a deviation of 4.
    counts = Counter(drawn)
    assert len(counts) == 6 and min(counts.values()) > 4
    assert captions_drawn(shuffled, 23, start_step=7) == drawn[7 * 4 :]
    assert captions_drawn(shuffled, 30, seed=2) != drawn
    assert set(batches.all_captions(shuffled)) == {"dog, traffic light, ball"}


def test_names_come_from_a_file_or_from_the_source(source, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("dog\n\ttraffic_light \r\nball\n\n", "utf-8")
    from_file = LabelCaptions(source, class_names=path)
    assert from_file.label_names == ["dog", "traffic_light", "ball"]
    source.label_names = ["a", "b", "c"]
    assert list(batches.all_captions(LabelCaptions(source)))[:2] == ["c, a", "b"]


def test_keywords_are_names_themselves(tmp_path):
    records = [example(png=jpeg(), keywords=[b"game", b" red_card", b"", b"game"])]
    source = sources.TfrecordSource(
        write(tmp_path / "a", records), image="png", captions="keywords"
    )
    captions = LabelCaptions(source, text_labels=True, templates=("{}", "an emoji of {}"))
    assert list(batches.all_captions(captions)) == ["game, red card", "an emoji of game, red card"]


def test_unlabelled_records_are_dropped_counted_and_reported(tmp_path):
    source = labelled(tmp_path / "a", [[0], [-1], [1, -1], [3, 0]])
    records = [*(record.numpy() for _, _, record in raw_records(source))]
    write(tmp_path / "a", [*records, example(jpg=jpeg())])
    bad_records = BadRecords()
    source = sources.TfrecordSource(str(tmp_path / "a"), captions=None, labels="label")
    captions = LabelCaptions(source, class_names=NAMES)
    found = list(batches.all_captions(captions, bad_records=bad_records))
    assert found == ["dog", "traffic light"]
    path = tmp_path / "a"
    assert bad_records.report() == (
        f"3 bad among the first 5 records read: 2 x no label ({path} record 1, {path} record 4); "
        f"1 x label 3 without a name, there are 3 ({path} record 3)"
    )
    assert set(captions_drawn(captions, 10)) == {"dog", "traffic light"}


def test_labels_stay_for_evaluation(source):
    captions = LabelCaptions(source, class_names=NAMES)
    batch = next(iter(batches.evaluation_batches(captions, batch_size=4, image_size=4)))
    assert batch["labels"].to_list() == [[2, 0], [1], [0, 1, 2], [2, 2, 0, 2]]
    assert batch["captions"].to_list()[1] == [b"traffic light"]
    assert captions.has_labels and captions.label_names == NAMES


@pytest.mark.parametrize(
    "values, kind, message",
    [
        ({"templates": ["a photo"]}, ValueError, "`templates` must each hold .* 'a photo'"),
        ({"templates": ["{} {}"]}, ValueError, "`templates` must each hold .* once"),
        ({"templates": "{}"}, TypeError, "`templates` must be a list. Received: templates='{}'"),
        ({"templates": []}, ValueError, "at least one template. Received: none"),
        ({"order": "random"}, ValueError, "`order` must be one of 'record', 'shuffled'"),
        ({"class_names": "gone.txt"}, ValueError, "`class_names` must be an existing file"),
        ({"class_names": ["a", " "]}, ValueError, "must not be empty. .* no name for label 1"),
        ({"class_names": None}, ValueError, "`class_names` must be given: .* names none"),
        ({"text_labels": True}, ValueError, "`text_labels` needs a source with captions"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(source, values, kind, message):
    with pytest.raises(kind, match=message):
        LabelCaptions(source, **{"class_names": NAMES, **values})


def test_a_source_must_have_labels_and_a_name_for_each_of_its_classes(source):
    source.label_names = ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="must name all 4 classes of .* Received: 3 names"):
        LabelCaptions(source, class_names=NAMES)
    source.has_labels = False
    with pytest.raises(ValueError, match="`source` must have labels. Received: source="):
        LabelCaptions(source, class_names=NAMES)


def test_a_builder_names_the_classes_of_its_labels(tmp_path, monkeypatch):
    from limoe_tf.data import shapes

    monkeypatch.setattr(shapes, "SPLITS", {"train": 4, "validation": 1, "test": 1})
    source = sources.TfdsSource(
        "captioned_shapes", split="train", labels="labels", data_dir=str(tmp_path)
    )
    captions = list(batches.all_captions(LabelCaptions(source)))
    assert len(captions) == 4
    assert {name for caption in captions for name in caption.split(", ")} <= set(shapes.CLASS_NAMES)
    record = next(iter(raw_records(source)))[2]
    expected = ", ".join(shapes.CLASS_NAMES[i] for i in np.unique(source.parse(record)["labels"]))
    assert sorted(captions[0].split(", ")) == sorted(expected.split(", "))
    assert tf.size(LabelCaptions(source).parse(record)["captions"]) == 1
