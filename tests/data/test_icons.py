"""`icon_names`, built from a small archive in the layout of @iconify/json."""

import collections
import hashlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from limoe_tf.data import icon_pictures, icon_sets, icon_splits, icons
from limoe_tf.data.batches import all_labels, training_batches
from limoe_tf.data.sources import TfdsSource
from limoe_tf.data.words import Vocabulary, train_vocabulary
from limoe_tf.evaluate.tasks import ZeroShot
from tests.shared import icon_archive
from tests.shared.icon_archive import icon_set, square


# Of a thousand names, one of each kind: a hash decides.
def name_that(is_held_out):
    names = (f"thing-of-{letters}" for letters in ("abc", *(f"kind{i}" for i in range(1000))))
    return next(n for n in names if icon_splits.is_held_out(n.replace("-", "")) == is_held_out)


HELD_OUT, KEPT = name_that(True), name_that(False)
SETS = [
    icon_set(
        "teenyicons",
        "smhmd",
        {
            "home-outline": square("currentColor"),
            "cup-solid": square("#ff0000"),
            "never-seen": square("#00ff00"),
        },
        suffixes={"outline": "Outline", "solid": "Solid"},
    ),
    icon_set(
        "aaa",
        "A",
        {
            "home-16-filled": square("currentColor"),
            "home-20-filled": square("currentColor"),
            "home-24-filled": square("currentColor", left=6),
            "cup-24-regular": {**square("currentColor"), "width": 32},
            "old-24-filled": {**square("currentColor"), "hidden": True},
            "1f600-24-filled": square("currentColor"),
            "nothing-24-filled": {"body": "<g></g>"},
            "wrong-24-filled": {"body": "<path"},
            f"{HELD_OUT}-24-filled": square("#123456"),
        },
        suffixes={"16-filled": "", "20-filled": "", "24-filled": "", "24-regular": ""},
        aliases={
            "house-24-filled": {"parent": "home-24-filled"},
            "home-48-filled": {"parent": "home-24-filled"},
            "house-flipped": {"parent": "home-24-filled", "hFlip": True},
            "older-24-filled": {"parent": "old-24-filled"},
            f"{KEPT}-24-filled": {"parent": f"{HELD_OUT}-24-filled"},
        },
    ),
    icon_set("bbb", "B", {"home": square("#0000ff"), "cup": square("#00ffff")}),
]


def build(folder, num_processes=2):
    builder = tfds.builder("icon_names", data_dir=folder / "built")
    builder.num_processes = num_processes
    config = tfds.download.DownloadConfig(manual_dir=folder / "manual")
    builder.download_and_prepare(download_config=config)
    return builder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("icons")
    icon_archive.write(folder / "manual", SETS)
    return build(folder)


@pytest.fixture(scope="module")
def found(built):
    """All records by split, by set and name."""
    return {
        split: {
            f"{one['set'].decode()}/{one['name'].decode()}": {
                **one,
                "captions": [caption.decode() for caption in one["captions"]],
            }
            for one in built.as_dataset(split=split).as_numpy_iterator()
        }
        for split in built.info.splits
    }


def test_each_icon_is_in_its_split_and_no_other(found):
    assert {split: sorted(records) for split, records in found.items()} == {
        "train": [
            *(f"aaa/{name}" for name in ("cup-24-regular", "home-16-filled", "home-24-filled")),
            *("bbb/cup", "bbb/home"),
        ],
        "test_names": [f"aaa/{HELD_OUT}-24-filled"],
        "test_sets": [f"teenyicons/{name}" for name in ("cup-solid", "home-outline", "never-seen")],
        "zero_shot": [f"teenyicons/{name}" for name in ("cup-solid", "home-outline")],
    }


def test_captions_are_name_style_and_what_aliases_add(found):
    captions = {
        name: one["captions"] for records in found.values() for name, one in records.items()
    }
    words = HELD_OUT.replace("-", " ")
    assert captions == {
        "aaa/cup-24-regular": ["cup"],
        "aaa/home-16-filled": ["home filled"],
        # The alias of another size says nothing else.
        "aaa/home-24-filled": ["home filled", "house filled"],
        # The alias is a name of training.
        f"aaa/{HELD_OUT}-24-filled": [f"{words} filled"],
        "bbb/cup": ["cup"],
        "bbb/home": ["home"],
        "teenyicons/cup-solid": ["cup solid"],
        "teenyicons/home-outline": ["home outline"],
        "teenyicons/never-seen": ["never seen"],
    }


def test_labels_are_the_commonest_names_of_training_that_the_test_sets_have(built, found):
    # Both names are in two sets of training: the order of the letters decides.
    assert built.info.features["labels"].feature.names == ["cup", "home"]
    labels = {name: one["labels"].tolist() for name, one in found["test_sets"].items()}
    assert labels == {
        "teenyicons/cup-solid": [0],
        "teenyicons/home-outline": [1],
        "teenyicons/never-seen": [],
    }
    assert found["train"]["bbb/home"]["labels"].tolist() == [1]


def test_pictures_are_drawn_with_their_alpha(found):
    image = found["test_sets"]["teenyicons/cup-solid"]["image"]
    assert image.shape == (64, 64, 4)
    # A unit of 16 is 4 pixels of 64.
    wanted = np.zeros([64, 64, 4])
    wanted[16:48, 16:32] = 255, 0, 0, 255
    np.testing.assert_array_equal(image, wanted)
    # A box of 32 by 16 is in the middle of the square, and a unit 2 pixels.
    wanted = np.zeros([64, 64, 4])
    wanted[16 + 8 : 16 + 24, 8:16] = 0, 0, 0, 255
    np.testing.assert_array_equal(found["train"]["aaa/cup-24-regular"]["image"], wanted)


def test_other_features_are_those_of_the_set(found):
    one = found["train"]["bbb/home"]
    assert (one["licence"], one["category"]) == (b"MIT", b"UI")


def test_no_icon_is_lost_silently(built, capsys):
    counts = tfds.builder("icon_names", data_dir=built._data_dir_root).info.metadata
    assert counts["icons"] == 14
    assert counts["pairs"] == {"train": 5, "test_names": 1, "test_sets": 3, "zero_shot": 2}
    assert counts["left_out"] == {
        "hidden": 1,
        "name says nothing": 1,
        "empty": 1,
        "broken": 1,
        "repeated": 1,  # home-20-filled
    }
    pairs = sum(counts["pairs"].values()) - counts["pairs"]["zero_shot"]
    assert counts["icons"] == pairs + sum(counts["left_out"].values())
    assert counts["aliases"] == {
        "a caption more": 1,
        "the same words": 1,
        "of a changed picture": 1,
        "of an icon that is left out": 1,
        "of another split": 1,
    }
    (broken,) = counts["broken"]
    assert broken.startswith("aaa/wrong-24-filled: ")
    lines = icons.report(counts).splitlines()
    assert lines[:2] == ["icon_names: 14 icons of 3 sets", "          5 pairs in train"]
    assert "          1 left out: repeated" in lines


def digest(builder):
    files = sorted(builder.data_path.glob("*.tfrecord*"))
    return [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def test_the_files_do_not_depend_on_the_number_of_processes(built, tmp_path):
    icon_archive.write(tmp_path / "manual", SETS)
    again = digest(build(tmp_path, num_processes=1))
    assert again == digest(built) and len(again) == 4


def test_a_source_trains_and_evaluates_on_it(built, tmp_path):
    data_dir = str(built._data_dir_root)
    source = TfdsSource("icon_names", split="train", data_dir=data_dir)
    captions = ["cup", "home", "home filled", "house filled"]
    train_vocabulary(captions, path=str(tmp_path / "m"), size=20, algorithm="bpe")
    vocabulary = Vocabulary(str(tmp_path / "m"), text_length=8)
    batch = next(
        iter(
            training_batches(
                source, vocabulary=vocabulary, batch_size=5, image_size=64, seed=0, shuffle_window=5
            )
        )
    )
    # Transparent pixels are white: each of the five icons has a corner of that.
    assert batch["image"].shape == (5, 64, 64, 3)
    np.testing.assert_array_equal(batch["image"][:, 0, 0], np.full([5, 3], 255))
    middles = collections.Counter(tuple(image[30, 25]) for image in batch["image"].numpy())
    assert middles[0, 0, 255] == middles[0, 255, 255] == 1
    labelled = TfdsSource("icon_names", split="zero_shot", labels="labels", data_dir=data_dir)
    assert ZeroShot(labelled).class_names == ["cup", "home"]
    assert sorted(all_labels(labelled)) == [[0], [1]]


def test_a_missing_archive_says_how_to_fetch_it(tmp_path):
    with pytest.raises(ValueError, match="(?s)icon_names cannot be built: .*npm pack @iconify"):
        TfdsSource("icon_names", split="train", data_dir=str(tmp_path))
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "other.tgz").touch()
    with pytest.raises(FileNotFoundError, match="npm pack .* Received: no .*2.2.535.tgz"):
        build(tmp_path)


def test_without_resvg_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(icon_pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "limoe_tf\[icons\]"'):
        list(icon_pictures.drawn(["<svg/>"], str))


def test_an_archive_without_sets_is_refused(tmp_path):
    icon_archive.write(tmp_path / "manual", [])
    with pytest.raises(ValueError, match=r"`path` must be an archive with package/json/\*.json"):
        list(icon_sets.read_sets(tmp_path / "manual" / icons.ARCHIVE))


def test_a_family_on_both_sides_is_refused(tmp_path):
    sets = [*SETS, icon_set("ccc", "smhmd", {"a-cup": square("#ff0000")})]
    icon_archive.write(tmp_path / "manual", sets)
    with pytest.raises(ValueError, match="teenyicons for tests, ccc for training"):
        icon_sets.plan(tmp_path / "manual" / icons.ARCHIVE)
