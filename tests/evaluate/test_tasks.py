import math

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import Limoe
from limoe_tf.data.mixture import Mixture
from limoe_tf.data.sources import TfrecordSource
from limoe_tf.evaluate import few_shot, tasks
from tests.shared import record_files

NAMES = ["zero", "one", "two", "three", "four", "five"]


def number_words(captions):
    """Stands in for a vocabulary: "a two" has the token 2."""
    captions = tf.convert_to_tensor(captions)
    word = tf.strings.regex_replace(captions, "^.* ", "")
    text = tf.argmax(word[:, tf.newaxis] == tf.constant(NAMES), axis=1, output_type=tf.int32)
    return text[:, tf.newaxis], tf.ones_like(text, tf.bool)[:, tf.newaxis]


class ColourModel:
    """Sees the brightness of an image, 0, 30, 60 ..., as its number, save those mistaken.

    Args:
      mistaken: dict of numbers of images that are taken for others.
    """

    image_size = 8

    def __init__(self, mistaken=()):
        self.mistaken = dict(mistaken)

    def encode_image(self, images):
        numbers = np.rint((np.mean(images, axis=(1, 2, 3)) - 3.5) / 30).astype(int)
        return np.eye(len(NAMES), dtype=np.float32)[[self.mistaken.get(n, n) for n in numbers]]

    def encode_text(self, text, text_valid):
        return np.eye(len(NAMES), dtype=np.float32)[np.asarray(text)[:, 0]]

    def logit_scale(self):
        return tf.constant(3.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Returns a file of images 0 to 5 with two captions each and their number as label."""
    records = [
        record_files.example(
            jpg=record_files.jpeg(30 * i),
            caption=[f"a {name}".encode(), f"the {name}".encode()],
            label=[i],
        )
        for i, name in enumerate(NAMES)
    ]
    return record_files.write(tmp_path_factory.mktemp("tasks") / "numbers", records)


def labelled(path):
    return TfrecordSource(path, labels="label")


def test_zero_shot_is_measured_over_all_images_and_by_groups(path):
    model = ColourModel(mistaken={1: 2, 5: 4})
    task = tasks.ZeroShot(labelled(path), class_names=NAMES, templates=["a {}"], batch_size=4)
    found = task(model, number_words)
    assert found["all"] == pytest.approx(4 / 6)
    # Each class has one image.
    assert found["all_mean_per_class"] == pytest.approx(4 / 6)
    # All images have the same probability: one logit is 3, five are 0.
    probability = math.exp(3) / (math.exp(3) + 5)
    assert found["all_calibration_error"] == pytest.approx(probability - 4 / 6)
    task.groups = {"low": [0, 1], "high": (2, 3, 4, 5), "five": [5]}
    found = task(model, number_words)
    assert (found["low"], found["high"], found["five"]) == (0.5, 0.75, 0.0)
    # The four classes that are not the image's own and not taken for it tie, and one is left out.
    assert found["five_top_5"] == pytest.approx(4 / 5)


def test_class_names_and_templates_may_stand_in_files(path, tmp_path):
    (tmp_path / "names.txt").write_text("zero\none\ntwo\nthree\nfour\nfive\n", "utf-8")
    (tmp_path / "templates.txt").write_text("a {}\nthe very {}\n", "utf-8")
    files = {f"{name}": str(tmp_path / f"{name}.txt") for name in ("names", "templates")}
    task = tasks.ZeroShot(
        labelled(path), class_names=files["names"], templates=files["templates"], batch_size=4
    )
    assert (task.class_names, task.templates) == (NAMES, ["a {}", "the very {}"])
    assert task(ColourModel(), number_words)["all"] == 1.0
    with pytest.raises(ValueError, match="`templates` must be an existing file"):
        tasks.ZeroShot(labelled(path), class_names=NAMES, templates=files["names"] + "x")


def test_a_task_says_what_it_has_read_and_which_records_were_bad(path, tmp_path):
    bad = record_files.example(jpg=b"no image", caption=b"a two", label=[2])
    source = tf.data.TFRecordDataset(path).as_numpy_iterator()
    mixed = record_files.write(tmp_path / "mixed", [next(source), bad, *source])
    task = tasks.Retrieval(TfrecordSource(mixed), batch_size=4)
    assert task.read == {}
    task(ColourModel(), number_words)
    (read,) = task.read.values()
    assert (read["images"], read["captions"]) == (6, 12)
    assert read["bad_records"].startswith("1 bad among the first")
    assert f"{mixed} record 1" in read["bad_records"]


def test_minibatches_have_one_caption_of_each_image_whatever_the_batch_size(path):
    def drawn(seed, batch_size):
        strings = []

        def noting(captions):
            strings.extend(caption.decode() for caption in captions.numpy())
            return number_words(captions)

        task = tasks.ContrastiveAccuracy(
            TfrecordSource(path), minibatch_size=4, seed=seed, batch_size=batch_size
        )
        found = task(ColourModel(mistaken={0: 3, 4: 1}), noting)
        # Image 0 is taken for 3, whose text is in its minibatch; image 4 for 1, whose text is not:
        # with that of 5 its own text ties.
        assert found["accuracy"] == pytest.approx((3 + 1 / 2 + 1) / 6)
        assert found["chance"] == pytest.approx(2 / 6)
        return strings[:6]

    strings = drawn(seed=0, batch_size=4)
    assert [string.split()[1] for string in strings] == NAMES
    assert {string.split()[0] for string in strings} == {"a", "the"}
    assert drawn(seed=0, batch_size=5) == strings
    assert any(drawn(seed=seed, batch_size=4) != strings for seed in (1, 2, 3))


def test_few_shot_learns_from_one_source_what_it_measures_on_another(path, tmp_path):
    records = [
        record_files.example(jpg=record_files.jpeg(30 * i), label=[label])
        for i, label in enumerate((7, 7, 5, 5, 5, 7))
    ]
    other = TfrecordSource(
        record_files.write(tmp_path / "other", records), captions=None, labels="label"
    )
    task = few_shot.FewShot(
        other, other, shots=(1, 3), num_seeds=2, layer="embedding", batch_size=4
    )
    found = task(ColourModel(), None)
    # With all images known each is right; with one of each class, at least those two.
    assert found["3_shot"] == 1.0 and found["3_shot_std"] == 0.0
    assert found["1_shot"] >= 2 / 6
    swept = few_shot.FewShot(other, other, shots=(2,), layer="embedding", sweep=True)
    assert "2_shot_log2_penalty" in swept(ColourModel(), None)
    # Of the first four images two have each label; batches of three bring six.
    few = few_shot.FewShot(
        other, other, shots=(3,), layer="embedding", max_train_images=4, batch_size=3
    )
    with pytest.raises(ValueError, match="Received: shots=3, 2 images of class 5"):
        few(ColourModel(), None)


def test_few_shot_refuses_sources_without_labels_and_images_with_several(path, tmp_path):
    with pytest.raises(ValueError, match="`test_source` must have labels"):
        few_shot.FewShot(labelled(path), TfrecordSource(path))
    with pytest.raises(ValueError, match="`layer` must be one of 'pooled', 'embedding'"):
        few_shot.FewShot(labelled(path), labelled(path), layer="last")
    record = record_files.example(jpg=record_files.jpeg(), caption=b"a two", label=[1, 2])
    several = labelled(record_files.write(tmp_path / "several", [record] * 2))
    task = few_shot.FewShot(several, several, layer="embedding")
    with pytest.raises(ValueError, match=r"one label for each image. .* of labels \[1, 2\]"):
        task(ColourModel(), None)


def test_retrieval_counts_all_captions_both_ways(path):
    found = tasks.Retrieval(TfrecordSource(path), batch_size=4)(ColourModel(), number_words)
    for way in ("image_to_text", "text_to_image"):
        assert found[way]["recall_at_1"] == found[way]["median_rank"] == 1.0
    # One of six images is right, and two of twelve captions, which part ten wrong ones in three.
    assert found["text_to_image"]["chance_median_rank"] == pytest.approx(3.5)
    assert found["image_to_text"]["chance_median_rank"] == pytest.approx(1 + 10 / 3)
    # Ten of six images are all of them.
    assert found["text_to_image"]["chance_at_10"] == 1.0


def test_retrieval_falls_with_mistakes(path):
    model = ColourModel(mistaken={0: 3})
    found = tasks.Retrieval(TfrecordSource(path), batch_size=4)(model, number_words)
    # Image 0 finds the captions of image 3, which finds its own: 5 of 6 images are right.
    assert found["image_to_text"]["recall_at_1"] == pytest.approx(5 / 6)
    # Captions of 1, 2, 4 and 5 find their images; those of 3 tie between images 0 and 3; those of 0
    # tie with all images.
    assert found["text_to_image"]["recall_at_1"] == pytest.approx((4 + 1 / 2 + 1 / 6) / 6)


def sparse_model(**options):
    return Limoe(
        width=8, depth=1, num_heads=2, hidden_width=8, patch_size=4, image_size=8, text_length=1,
        vocabulary_size=6, plan=("sparse",), num_experts=2, capacity_factor=2.0, **options,
    )  # fmt: skip


def test_success_rates_need_as_few_records_as_there_are(path):
    task = tasks.SuccessRates(TfrecordSource(path), batch_size=3, num_batches=2)
    # Two even shares for each of two experts are room for all.
    assert task(sparse_model(), number_words) == {
        "image": 1.0,
        "text": 1.0,
        "block_00": {"image": 1.0, "text": 1.0},
    }


def test_too_many_bad_records_are_an_error_in_every_task(tmp_path):
    bad = record_files.example(jpg=b"no image", caption=b"a two", label=[2])
    path = record_files.write(tmp_path / "bad", [bad] * 3)
    for task, model in (
        (tasks.ZeroShot(labelled(path), class_names=NAMES), ColourModel()),
        (tasks.Retrieval(TfrecordSource(path)), ColourModel()),
        (tasks.ContrastiveAccuracy(TfrecordSource(path)), ColourModel()),
        (few_shot.FewShot(labelled(path), labelled(path), layer="embedding"), ColourModel()),
        (tasks.SuccessRates(TfrecordSource(path), batch_size=2), sparse_model()),
    ):
        with pytest.raises(
            ValueError, match=r"^At least one record must be valid. Received: \d bad"
        ):
            task(model, number_words)


@pytest.mark.parametrize(
    "options, kind, message",
    [
        (
            {"class_names": ["zero", "?"]},
            ValueError,
            "must hold words. Received: '\\?' for label 1",
        ),
        ({"class_names": [1, 2]}, TypeError, "`class_names` must be a list of strings"),
        ({"templates": ["a photo"]}, ValueError, "`templates` must each hold"),
        ({"templates": []}, ValueError, "`templates` must not be empty"),
        ({"groups": {"all": [0, 6]}}, ValueError, r"`groups\['all'\]` must be between 0 and 5"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"resize": "crop"}, ValueError, "`resize` must be one of"),
    ],
)
def test_a_zero_shot_task_that_could_not_run_is_refused(path, options, kind, message):
    with pytest.raises(kind, match=message):
        tasks.ZeroShot(labelled(path), **{"class_names": NAMES, **options})


def test_what_is_no_source_is_refused(path):
    both = Mixture({"a": labelled(path), "b": TfrecordSource(path)}, weights={"a": 1, "b": 1})
    for make in (tasks.ZeroShot, tasks.Retrieval, tasks.ContrastiveAccuracy):
        with pytest.raises(TypeError, match="`source` must be a source, such as .*source='data/"):
            make("data/test-*")
        with pytest.raises(TypeError, match="`source` must be one source, not a Mixture"):
            make(both)
    with pytest.raises(TypeError, match="`test_source` must be a source"):
        few_shot.FewShot(labelled(path), "data/test-*")


def test_a_look_at_the_data_finds_what_a_call_would(path, tmp_path):
    few_names = tasks.ZeroShot(labelled(path), class_names=NAMES[:4])
    other_key = TfrecordSource(path, captions="text")
    unlabelled = record_files.write(
        tmp_path / "unlabelled", [record_files.example(jpg=record_files.jpeg(1), caption=b"one")]
    )
    empty = record_files.write(tmp_path / "empty", [])
    sparse = sparse_model()
    for task, message in (
        (few_names, "`labels` must be between 0 and 3, one of the 4 classes. Received: 4"),
        (tasks.ZeroShot(labelled(unlabelled), class_names=NAMES), "every image at least one label"),
        (
            tasks.Retrieval(other_key),
            "At least one record must be valid. Received: 6 bad.*no caption",
        ),
        (tasks.ContrastiveAccuracy(other_key), "At least one record must be valid"),
        (tasks.SuccessRates(other_key, batch_size=2), "At least one record must be valid"),
        (tasks.Retrieval(TfrecordSource(empty)), "at least one record"),
        (few_shot.FewShot(labelled(path), labelled(path), shots=(1, 2)), "at most the training im"),
    ):
        with pytest.raises(ValueError, match=message):
            task.check(sparse)
    with pytest.raises(ValueError, match="one of the 4 classes. Received: 4"):
        few_names(ColourModel(), number_words)
    grouped = tasks.ZeroShot(labelled(path), class_names=[*NAMES, "six"], groups={"none": [6]})
    with pytest.raises(ValueError, match="`groups` must each have images. Received: none for 'no"):
        grouped.check(sparse)
    grouped_routing = sparse_model(group_size=4)
    with pytest.raises(ValueError, match="must be divisible by group_size=4 .*batch_size=6"):
        tasks.SuccessRates(TfrecordSource(path), batch_size=6).check(grouped_routing)


def test_a_look_at_sound_data_finds_nothing(path):
    model = sparse_model()
    for task in (
        tasks.ZeroShot(labelled(path), class_names=NAMES, groups={"low": [0, 1]}),
        tasks.Retrieval(TfrecordSource(path)),
        tasks.SuccessRates(TfrecordSource(path), batch_size=3, num_batches=2),
        few_shot.FewShot(labelled(path), labelled(path), shots=(1,)),
    ):
        task.check(model)


def test_another_vocabulary_than_that_of_the_weights_is_refused(path):
    class Named:
        path, sha256 = "words.model", "ab"

        def __call__(self, captions):
            return number_words(captions)

    model = sparse_model(companions={"vocabulary": "cd"})
    for task in (
        tasks.ZeroShot(labelled(path), class_names=NAMES),
        tasks.Retrieval(TfrecordSource(path)),
        tasks.SuccessRates(TfrecordSource(path), batch_size=3, num_batches=2),
    ):
        with pytest.raises(ValueError, match="'words.model' with vocabulary SHA-256 ab, .* has cd"):
            task(model, Named())


def test_a_group_without_images_is_an_error(path):
    task = tasks.ZeroShot(labelled(path), class_names=NAMES, groups={"low": [0], "no": []})
    with pytest.raises(ValueError, match="`groups` must each have images. Received: none for 'no'"):
        task(ColourModel(), number_words)


def test_sources_without_what_a_task_reads_are_refused(path):
    without = TfrecordSource(path, captions=None, labels="label")
    with pytest.raises(ValueError, match="`source` must have labels"):
        tasks.ZeroShot(TfrecordSource(path))
    with pytest.raises(ValueError, match="`class_names` must be given"):
        tasks.ZeroShot(labelled(path))
    with pytest.raises(ValueError, match="`source` must have captions"):
        tasks.Retrieval(without)
    with pytest.raises(ValueError, match="`source` must have captions"):
        tasks.SuccessRates(without, batch_size=2)
    with pytest.raises(ValueError, match="`num_batches` must be at least 1"):
        tasks.SuccessRates(TfrecordSource(path), batch_size=2, num_batches=0)
