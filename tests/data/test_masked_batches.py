"""Pairs, images alone and texts alone, read from three sources and masked."""

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from limoe_tf.data import masking, sources, words
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import training_batches
from limoe_tf.data.masked_batches import masked_batches
from limoe_tf.model.vlmoe import VlMoe
from tests.shared.record_files import example, jpeg, write, write_pairs

NUM_RECORDS = 40
SHARES = {"word_share": 0.3, "pair_word_share": 0.5, "patch_share": 0.4, "pair_patch_share": 0.25}
SETTINGS = {
    "batch_size": 8, "image_size": 16, "patch_size": 4, "seed": 5, "shuffle_window": 20, **SHARES,
}  # fmt: skip
PAIRS = (
    "image", "image_masked", "text", "text_valid", "text_shown", "text_masked",
    "text_masked_present",
)  # fmt: skip
IMAGES = ("lone_image", "lone_image_masked")
TEXTS = tuple(f"lone_{name}" for name in PAIRS if name.startswith("text"))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("words") / "words.model")
    captions = [f"image {i} caption {c}" for i in range(NUM_RECORDS) for c in range(2)]
    words.train_vocabulary(captions, path=path, size=40, algorithm="bpe")
    return words.Vocabulary(path, text_length=10)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sources.TfrecordSource(write_pairs(tmp_path_factory.mktemp("pairs") / "a", NUM_RECORDS))


@pytest.fixture(scope="module")
def images_only(tmp_path_factory):
    records = [example(jpg=jpeg(i)) for i in range(100, 130)]
    path = write(tmp_path_factory.mktemp("images") / "images", records)
    return sources.TfrecordSource(path, captions=None)


@pytest.fixture(scope="module")
def texts_only(tmp_path_factory):
    records = [example(caption=f"caption {i} image".encode()) for i in range(30)]
    path = write(tmp_path_factory.mktemp("texts") / "texts", records)
    return sources.TfrecordSource(path, image=None)


@pytest.fixture(scope="module")
def model(vocabulary):
    return VlMoe(
        width=12, depth=1, num_heads=2, hidden_width=16, patch_size=4, image_size=16,
        fused_blocks=1, text_length=10, vocabulary_size=vocabulary.size, num_codes=5,
        num_experts=2, **SHARES,
    )  # fmt: skip


def masked(source, vocabulary, **settings):
    return masked_batches(source, vocabulary=vocabulary, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def dataset(source, vocabulary):
    return masked(source, vocabulary)


@pytest.fixture(scope="module")
def batches(dataset):
    """Eight batches: 64 records, more than an epoch and three windows."""
    return list(dataset.take(8))


@pytest.fixture(scope="module")
def of_three(source, vocabulary, images_only, texts_only):
    """Seven batches of three sources, which end at different times."""
    lone = {"lone_images": images_only, "lone_texts": texts_only}
    return list(masked(source, vocabulary, **lone).take(7))


def assert_same(some, others, names=(*PAIRS, *IMAGES, *TEXTS)):
    for batch, other in zip(some, others, strict=True):
        for name in names:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def read(text, vocabulary):
    """Returns texts of ids in words, without their ends."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.read())
    return [pieces.decode(one.tolist()) for one in np.asarray(text)]


def images_drawn(images):
    """Returns the numbers of images: number i has a mean of i plus noise between 0 and 7."""
    return np.rint(np.mean(images, axis=(-3, -2, -1)) - 3.5).astype(int)


def test_batches_are_those_that_the_model_states(dataset, model):
    assert {**SETTINGS, **model.data_options} == SETTINGS
    assert dataset.element_spec == model.batch_spec(8)
    assert set(dataset.element_spec) == {*PAIRS, *IMAGES, *TEXTS}
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    # Of 16 patches 0.4 * 16 = 6.4 and 0.25 * 16 = 4; of 9 words before the end, 0.5 * 9 =
    # 4.5 to the even neighbour, and 0.3 * 9 = 2.7.
    shapes = {name: spec.shape[1:] for name, spec in dataset.element_spec.items()}
    assert shapes["lone_image_masked"] == [6] and shapes["image_masked"] == [4]
    assert shapes["text_masked"] == [4] and shapes["lone_text_masked"] == [3]


def test_images_of_pairs_keep_their_captions(batches, vocabulary):
    for batch in batches:
        captions = read(batch["text"], vocabulary)
        told = [int(caption.split()[1]) for caption in captions]
        # JPEG moves the mean of an image a little.
        np.testing.assert_allclose(images_drawn(batch["image"]), told, atol=1)


def test_an_epoch_of_each_part_holds_each_record_once_in_an_order_of_its_own(batches, vocabulary):
    orders = []
    for name in ("text", "lone_text"):
        drawn = read(np.concatenate([batch[name] for batch in batches[:5]]), vocabulary)
        orders.append([int(caption.split()[1]) for caption in drawn])
    drawn = np.concatenate([batch["lone_image"] for batch in batches[:5]])
    orders.append(images_drawn(drawn).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(NUM_RECORDS))
    np.testing.assert_allclose(sorted(orders[2]), range(NUM_RECORDS), atol=1)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(np.abs(np.subtract(orders[one], orders[other])) <= 1) < 0.5


def test_pairs_are_those_of_training_and_masked_by_what_is_drawn_there(source, vocabulary, batches):
    num_patches, num_words = masking.num_patch_draws(16), masking.num_word_draws(10)
    plain = training_batches(
        source, vocabulary=vocabulary, batch_size=8, image_size=16, seed=5, shuffle_window=20,
        num_draws=num_patches + num_words,
    )  # fmt: skip
    plain = list(plain.take(8))
    assert_same(plain, batches, ("image", "text", "text_valid"))
    for one, batch in zip(plain, batches):
        # Patches and words are masked by different numbers.
        of_patches, of_words = tf.split(one["draws"], [num_patches, num_words], axis=1)
        places = masking.masked_patches(of_patches, num_patches=16, share=0.25)
        np.testing.assert_array_equal(places, batch["image_masked"])
        shown, *_ = masking.masked_words(
            of_words, one["text"], one["text_valid"], words=vocabulary.words(),
            vocabulary_size=vocabulary.size, share=0.5,
        )  # fmt: skip
        np.testing.assert_array_equal(shown, batch["text_shown"])


@pytest.mark.parametrize("prefix, share", [("", 0.5), ("lone_", 0.3)])
def test_masked_words_are_of_the_text_and_the_rest_is_shown(batches, vocabulary, prefix, share):
    for batch in batches:
        text, valid, shown, places, present = (
            batch[f"{prefix}text{end}"].numpy()
            for end in ("", "_valid", "_shown", "_masked", "_masked_present")
        )
        hidden = np.zeros(text.shape, bool)
        for row in range(8):
            hidden[row, places[row][present[row]]] = True
        is_word = valid & (text != vocabulary.end_id)
        number = np.maximum(np.rint(share * is_word.sum(axis=1)), 1)
        np.testing.assert_array_equal(hidden.sum(axis=1), number)
        assert not hidden[~is_word].any()
        np.testing.assert_array_equal(shown[~hidden], text[~hidden])
        assert set(shown[hidden]) <= {vocabulary.size, *vocabulary.words()}
    showing = [batch[f"{prefix}text_shown"].numpy() == vocabulary.size for batch in batches]
    assert np.sum(showing) > 64


def test_each_row_and_each_batch_has_a_mask_of_its_own(batches):
    for name in ("image_masked", "lone_image_masked", "text_masked"):
        places = np.concatenate([batch[name] for batch in batches])
        assert len(places) == 64 and len({tuple(one) for one in places}) > 24


def test_a_later_start_gives_the_same_batches(
    source, vocabulary, images_only, texts_only, of_three
):
    # 8 examples a batch, windows of 20, and epochs of 40, 30 and 30: the start lies inside windows
    # and beyond epochs.
    tf.random.set_seed(3)
    again = masked(
        source, vocabulary, start_step=5, num_threads=1, lone_images=images_only,
        lone_texts=texts_only,
    )  # fmt: skip
    assert_same(of_three[5:], again.take(2))


def test_three_sources_are_read_each_for_its_part(of_three, batches, vocabulary):
    assert_same(of_three, batches[:7], PAIRS)
    for batch in of_three:
        captions = read(batch["lone_text"], vocabulary)
        assert {(one.split()[0], one.split()[2]) for one in captions} == {("caption", "image")}
        assert (images_drawn(batch["lone_image"]) >= 99).all()


@pytest.fixture(scope="module")
def of_odd_texts(source, vocabulary, tmp_path_factory):
    """Two batches with texts, alone, of one word and of far too many, beside broken images."""
    long = b"image caption image caption image caption image caption image caption image caption"
    records = [example(jpg=b"no image", caption=text) for text in (b"1", long)] * 10
    texts = sources.TfrecordSource(write(tmp_path_factory.mktemp("odd") / "odd", records))
    bad_records = BadRecords()
    found = masked(source, vocabulary, lone_texts=texts, bad_records=bad_records)
    return list(found.take(2)), bad_records.count


def test_other_texts_leave_pairs_and_images_as_they_are(of_odd_texts, batches):
    assert_same(of_odd_texts[0], batches[:2], (*PAIRS, *IMAGES))


def test_images_are_not_decoded_for_their_texts(of_odd_texts):
    assert of_odd_texts[1] == 0


def test_a_text_of_one_word_is_masked_and_one_that_is_cut_keeps_its_end(of_odd_texts, vocabulary):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.read())
    for batch in of_odd_texts[0]:
        number = zip(
            batch["lone_text_valid"].numpy().sum(axis=1),
            batch["lone_text_masked_present"].numpy().sum(axis=1),
        )
        # Of one or two pieces one is masked; of 9, 0.3 * 9 = 2.7.
        assert set(number) == {(len(pieces.encode("1")) + 1, 1), (10, 3)}
        assert (batch["lone_text"].numpy()[:, -1] == vocabulary.end_id).all()


@pytest.mark.parametrize(
    "role, kind, message",
    [
        ("source", "images", "A source must have captions to train on. Received: .*images"),
        ("lone_texts", "images", "A source must have captions to train on. Received: .*images"),
        ("source", "texts", "A source must have images to train on. Received: .*texts"),
        ("lone_images", "texts", "A source must have images to train on. Received: .*texts"),
    ],
)
def test_a_source_without_what_is_read_of_it_is_refused(
    source, images_only, texts_only, vocabulary, role, kind, message
):
    given = {"source": source, role: {"images": images_only, "texts": texts_only}[kind]}
    with pytest.raises(ValueError, match=message):
        masked_batches(given.pop("source"), vocabulary=vocabulary, **SETTINGS, **given)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"patch_size": 5}, "must be a multiple of `patch_size`. .* image_size=16, patch_size=5"),
        ({"patch_size": 0}, "`patch_size` must be at least 1"),
        ({"patch_share": 1.5}, "`share` must be between 0 and 1"),
        ({"pair_patch_share": 1.5}, "`share` must be between 0 and 1"),
        ({"word_share": -0.1}, "`share` must be between 0 and 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"seed": -1}, "`seed` must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_errors(source, vocabulary, values, message):
    with pytest.raises(ValueError, match=message):
        masked_batches(source, vocabulary=vocabulary, **{**SETTINGS, **values})


def test_a_vocabulary_without_words_is_refused(source, vocabulary, monkeypatch):
    monkeypatch.setattr(vocabulary, "words", list)
    with pytest.raises(ValueError, match="must have words to mask. Received: .*words.model"):
        masked_batches(source, vocabulary=vocabulary, **SETTINGS)


def test_bad_records_of_each_source_are_counted_under_its_name(vocabulary, tmp_path):
    def source_of(name, bad, **keys):
        good = [example(jpg=jpeg(i), caption=f"image {i} caption 0".encode()) for i in range(20)]
        return sources.TfrecordSource(write(tmp_path / name, [*good[len(bad) :], *bad]), **keys)

    empty, mute = example(jpg=b"", caption=b"image 9 caption 0"), example(jpg=jpeg(9))
    pairs = source_of("pairs", [empty])
    # That there is no caption is no fault of an image alone.
    images = source_of("images", [empty, empty, mute], captions=None)
    texts = source_of("texts", [mute, mute, mute], image=None)
    expected = {
        f"pairs of {pairs.name}": (1, "empty image"),
        f"images of {images.name}": (2, "empty image"),
        f"texts of {texts.name}": (3, "no caption"),
    }
    bad_records = BadRecords()
    lone = {"lone_images": images, "lone_texts": texts, "bad_records": bad_records}
    # Three batches of 8 are more than the window, which is the epoch.
    assert len(list(masked(pairs, vocabulary, **lone).take(3))) == 3
    report = dict(part.split(": ", 1) for part in bad_records.report().split("; "))
    assert list(report) == list(expected)
    for name, (count, reason) in expected.items():
        # Reading goes on ahead, so the next window may have been noted as well.
        found = int(report[name].split()[0])
        assert count <= found <= 3 * count
        assert f": {found} x {reason} ({name.split(' of ')[1]} record " in report[name]
    assert set(bad_records.reasons) == {"empty image", "no caption"}


def test_hosts_share_the_batches_of_one_device(
    source, vocabulary, images_only, texts_only, of_three
):
    lone = {"lone_images": images_only, "lone_texts": texts_only}
    by_host = []
    for host in range(2):
        context = tf.distribute.InputContext(2, host, 4)
        found = masked(source, vocabulary, input_context=context, **lone).take(2 * 5)
        by_host.append(list(found))
    for step, batch in enumerate(of_three[:5]):
        # Four replicas, two of each host.
        parts = [part for host in by_host for part in host[2 * step : 2 * step + 2]]
        assert [part["image"].shape[0] for part in parts] == [2] * 4
        assert_same(
            [{name: np.concatenate([one[name] for one in parts]) for name in batch}], [batch]
        )
