"""Datasets built by other TFDS code, read from their folders."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from limoe_tf.data import batches, sources, words
from limoe_tf.data.labels import LabelCaptions
from tests.shared.record_files import jpeg, picture
from tpu_jobs import build_vocabulary

COUNT = 12
COCO = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "captions": tfds.features.Sequence({"id": np.int64, "text": np.str_}),
        "objects": tfds.features.Sequence(
            {
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(num_classes=80),
                "is_crowd": np.bool_,
            }
        ),
    }
)
IMAGENET = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["n01440764", "n01443537", "n01484850"]),
        "file_name": tfds.features.Text(),
    }
)
CIFAR10 = tfds.features.FeaturesDict(
    {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=["airplane", "automobile", "bird"]),
    }
)


def coco(i):
    captions = [{"id": 10 * i + c, "text": f"image {i} caption {c}"} for c in range(5 + i % 2)]
    box = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.5, xmax=0.6)
    return {
        "image": picture(i),
        "image/filename": f"{i:012}.jpg",
        "image/id": i,
        "captions": captions,
        "objects": [{"bbox": box, "label": i, "is_crowd": False}] * (i % 3),
    }


def imagenet(i):
    return {"image": picture(i), "label": i % 3, "file_name": f"{i}.JPEG"}


def cifar10(i):
    return {"id": f"train_{i}", "image": picture(i, height=32, width=32), "label": i % 3}


def build(folder, name, features, example):
    """Writes a dataset of an unregistered builder, and moves it; returns its folder."""
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.1.0",
        data_dir=folder / "before",
        split_datasets={"train": [(i, example(i)) for i in range(COUNT)]},
        features=features,
        disable_shuffling=True,
    )
    shutil.move(builder.data_dir, folder / "1.1.0")
    return str(folder / "1.1.0")


def evaluated(source):
    return list(batches.evaluation_batches(source, batch_size=COUNT, image_size=16))


def test_a_folder_in_the_form_of_coco_captions_is_trained_on(tmp_path):
    folder = build(tmp_path, "unknown_coco", COCO, coco)
    source = sources.TfdsSource(folder, split="train", captions="captions/text")
    (batch,) = evaluated(source)
    captions = [[f"image {i} caption {c}" for c in range(5 + i % 2)] for i in range(COUNT)]
    assert batch["captions"].to_list() == [[one.encode() for one in row] for row in captions]
    means = tf.reduce_mean(tf.cast(batch["image"], tf.float32), [1, 2, 3])
    # Colour i and noise of 0 to 7, 3.5 on average; the JPEGs round.
    np.testing.assert_allclose(means, np.arange(COUNT) + 3.5, atol=1)

    path = str(tmp_path / "words.model")
    build_vocabulary.build(
        build_vocabulary.open_source(folder, captions="captions/text"), path=path, size=30
    )
    trained = batches.training_batches(
        source,
        vocabulary=words.Vocabulary(path, text_length=8),
        batch_size=4,
        image_size=16,
        seed=0,
        shuffle_window=8,
    )
    (batch,) = trained.take(1)
    assert batch["image"].shape == (4, 16, 16, 3) and tf.reduce_all(batch["text_valid"][:, 0])


def test_a_part_of_a_split_of_a_folder_is_read(tmp_path):
    folder = build(tmp_path, "unknown_coco", COCO, coco)
    source = sources.TfdsSource(f"{folder}/", split="train[25%:50%]", captions="captions/text")
    (batch,) = evaluated(source)
    assert [row[0] for row in batch["captions"].to_list()] == [
        f"image {i} caption 0".encode() for i in (3, 4, 5)
    ]


@pytest.mark.parametrize(
    "features, example, names",
    [
        (IMAGENET, imagenet, ["n01440764", "n01443537", "n01484850"]),
        (CIFAR10, cifar10, ["airplane", "automobile", "bird"]),
    ],
)
def test_a_folder_of_labelled_images_gives_labels_and_their_names(
    features, example, names, tmp_path
):
    folder = build(tmp_path, "unknown_labels", features, example)
    source = sources.TfdsSource(folder, split="train", captions=None, labels="label")
    assert source.label_names == names
    (batch,) = evaluated(source)
    np.testing.assert_array_equal(batch["labels"], [[i % 3] for i in range(COUNT)])
    captioned = LabelCaptions(source, templates=("a photo of {}",))
    found = list(batches.all_captions(captioned))
    assert found == [f"a photo of {names[i % 3]}" for i in range(COUNT)]


def test_a_folder_without_a_dataset_is_an_error_that_says_what_was_tried(tmp_path):
    folder = build(tmp_path, "unknown_labels", CIFAR10, cifar10)
    tried = f"{tmp_path}/dataset_info.json and a builder of that name"
    with pytest.raises(ValueError, match=f"folder of a built dataset. Received: .*tried {tried}"):
        sources.TfdsSource(str(tmp_path), split="train")
    with pytest.raises(ValueError, match="only: 1.0.0"):
        sources.TfdsSource("captioned_shapes:9.9.9", split="train", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"`split` must be one of unknown_labels's, \['train'\]"):
        sources.TfdsSource(folder, split="test", captions=None, labels="label")


def test_a_vocabulary_of_a_folder_that_is_no_dataset_is_an_error(tmp_path):
    (tmp_path / "image.jpg").write_bytes(jpeg())
    with pytest.raises(ValueError, match="`name` must be a TensorFlow Datasets builder or the"):
        build_vocabulary.open_source(str(tmp_path))
