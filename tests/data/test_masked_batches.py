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
SHARES = {"word_share": 0.3, "pair_word_share": 0.5, "patch_share": 0.4}
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


def taken(source, vocabulary, num_batches, **settings):
    dataset = masked_batches(source, vocabulary=vocabulary, **{**SETTINGS, **settings})
    return list(dataset.take(num_batches))


@pytest.fixture(scope="module")
def batches(source, vocabulary):
    """Eight batches: 64 records, more than an epoch and three windows."""
    return taken(source, vocabulary, 8)


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


def test_batches_are_those_that_the_model_states(source, vocabulary, model):
    dataset = masked_batches(
        source, vocabulary=vocabulary, batch_size=8, seed=5, shuffle_window=20, **model.data_options
    )
    assert dataset.element_spec == model.batch_spec(8)
    assert set(dataset.element_spec) == {*PAIRS, *IMAGES, *TEXTS}
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    # Of 16 patches 0.4 * 16 = 6.4; of 9 words before the end, 0.5 * 9 = 4.5 to the even neighbour,
    # and 0.3 * 9 = 2.7.
    shapes = {name: dataset.element_spec[name].shape[1:] for name in dataset.element_spec}
    assert shapes["image_masked"] == shapes["lone_image_masked"] == [6]
    assert shapes["text_masked"] == [4] and shapes["lone_text_masked"] == [3]


def test_the_model_learns_from_a_batch(batches, model):
    report = model.forward(batches[0], training=False)
    assert {"mlm", "vlm_text"} <= set(model.loss_and_logs(report, model.default_weights)[1])


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


def test_pairs_are_those_of_training_without_masks(source, vocabulary, batches):
    of_pairs = {name: SETTINGS[name] for name in ("batch_size", "image_size", "shuffle_window")}
    plain = training_batches(source, vocabulary=vocabulary, seed=5, **of_pairs)
    assert_same(plain.take(8), batches, ("image", "text", "text_valid"))


@pytest.mark.parametrize("prefix, share", [("", 0.5), ("lone_", 0.3)])
def test_masked_words_are_of_the_text_and_the_rest_is_shown(batches, vocabulary, prefix, share):
    for batch in batches:
        text, valid, shown, places, present = (
            batch[f"{prefix}text{end}"].numpy()
            for end in ("", "_valid", "_shown", "_masked", "_masked_present")
        )
        masked = np.zeros(text.shape, bool)
        for row in range(8):
            masked[row, places[row][present[row]]] = True
        is_word = valid & (text != vocabulary.end_id)
        number = np.maximum(np.rint(share * is_word.sum(axis=1)), 1)
        np.testing.assert_array_equal(masked.sum(axis=1), number)
        assert not masked[~is_word].any()
        np.testing.assert_array_equal(shown[~masked], text[~masked])
        assert set(shown[masked]) <= {vocabulary.size, *vocabulary.words()}
    hidden = [batch[f"{prefix}text_shown"].numpy() == vocabulary.size for batch in batches]
    assert np.sum(hidden) > 64


def test_each_row_and_each_batch_has_a_mask_of_its_own(batches):
    for name in ("image_masked", "lone_image_masked", "text_masked"):
        places = np.concatenate([batch[name] for batch in batches])
        assert len({tuple(one) for one in places}) > 40
    # Images alone are not masked as the images of pairs.
    for batch in batches:
        assert (batch["image_masked"] != batch["lone_image_masked"]).numpy().any()


def test_what_is_drawn_for_patches_and_words_stands_apart(source, vocabulary, batches):
    num_patches = masking.num_patch_draws(16)
    plain = training_batches(
        source, vocabulary=vocabulary, batch_size=8, image_size=16, seed=5, shuffle_window=20,
        num_draws=num_patches + masking.num_word_draws(10),
    )  # fmt: skip
    draws = next(iter(plain))["draws"]
    places = masking.masked_patches(draws[:, :num_patches], num_patches=16, share=0.4)
    np.testing.assert_array_equal(places, batches[0]["image_masked"])


@pytest.mark.parametrize("start_step", [1, 6])
def test_a_later_start_gives_the_same_batches(source, vocabulary, batches, start_step):
    # 8 examples a batch and windows of 20: starts lie inside windows and beyond the epoch of 40.
    again = taken(source, vocabulary, 8 - start_step, start_step=start_step)
    assert_same(batches[start_step:], again)


def test_a_later_start_gives_the_same_batches_of_three_sources(
    source, vocabulary, images_only, texts_only
):
    lone = {"lone_images": images_only, "lone_texts": texts_only}
    augmented = {"crop": "random_resized_crop", "flip": True}
    expected = taken(source, vocabulary, 7, **lone, **augmented)
    assert_same(expected[5:], taken(source, vocabulary, 2, start_step=5, **lone, **augmented))


def test_batches_depend_on_the_seed_and_not_on_threads_or_global_seeds(source, vocabulary, batches):
    tf.random.set_seed(1)
    assert_same(batches[:3], taken(source, vocabulary, 3, num_threads=1))
    other = taken(source, vocabulary, 1, seed=6)[0]
    for name in ("text", "lone_text", "lone_image", "image_masked", "lone_image_masked"):
        assert np.any(batches[0][name] != other[name])


def test_each_source_can_be_another_one_and_leaves_the_others_as_they_are(
    source, vocabulary, images_only, texts_only, batches
):
    texts = taken(source, vocabulary, 4, lone_texts=texts_only)
    assert_same(texts, batches[:4], (*PAIRS, *IMAGES))
    drawn = read(np.concatenate([batch["lone_text"] for batch in texts]), vocabulary)
    assert {caption.split()[0] for caption in drawn} == {"caption"}
    images = taken(source, vocabulary, 4, lone_images=images_only)
    assert_same(images, batches[:4], (*PAIRS, *TEXTS))
    for batch in images:
        assert (images_drawn(batch["lone_image"]) >= 99).all()
    both = taken(source, vocabulary, 4, lone_images=images_only, lone_texts=texts_only)
    assert_same(both, texts, (*PAIRS, *TEXTS))
    assert_same(both, images, IMAGES)


def test_a_text_of_all_lengths_is_masked_and_one_that_is_cut_keeps_its_end(
    source, vocabulary, tmp_path
):
    long = b"image caption image caption image caption image caption image caption image caption"
    records = [example(caption=b"1"), example(caption=long)] * 10
    texts = sources.TfrecordSource(write(tmp_path / "texts", records), image=None)
    (batch,) = taken(source, vocabulary, 1, lone_texts=texts)
    number = {int(valid.sum()): int(present.sum()) for valid, present in zip(
        batch["lone_text_valid"].numpy(), batch["lone_text_masked_present"].numpy()
    )}  # fmt: skip
    # A text of one word has one masked, one of 9 has 0.3 * 9 = 2.7, and its end.
    length = len(read_pieces(vocabulary, "1")) + 1
    assert number == {length: 1, 10: 3}
    assert (batch["lone_text"].numpy()[:, -1] == vocabulary.end_id).all()


def read_pieces(vocabulary, text):
    return sentencepiece.SentencePieceProcessor(model_proto=vocabulary.read()).encode(text)


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
    images = source_of("images", [empty, empty], captions=None)
    texts = source_of("texts", [mute, mute, mute], image=None)
    bad_records = BadRecords()
    # An epoch is a window, of which the good ones are repeated.
    options = {"lone_images": images, "lone_texts": texts, "bad_records": bad_records}
    taken(pairs, vocabulary, 1, start_step=0, **options)
    # Reading goes on ahead, so a later window may have been noted as well.
    counts = {reason: count for reason, count in bad_records.reasons.items()}
    assert set(counts) == {"empty image", "no caption"}
    report = dict(part.split(": ", 1) for part in bad_records.report().split("; "))
    assert list(report) == [
        f"pairs of {pairs.name}", f"images of {images.name}", f"texts of {texts.name}",
    ]  # fmt: skip
    for part, (reason, each) in zip(
        report.values(), [("empty image", 1), ("empty image", 2), ("no caption", 3)], strict=True
    ):
        count = int(part.split()[0])
        assert count and count % each == 0 and reason in part


def test_too_many_bad_records_of_one_source_stop_reading(source, vocabulary, tmp_path):
    records = [example(caption=b"image 1"), example(photo=b"")] * 10
    texts = sources.TfrecordSource(write(tmp_path / "texts", records), image=None)
    bad_records = BadRecords(max_share=0.25, min_records=10)
    options = {"lone_texts": texts, "bad_records": bad_records}
    with pytest.raises(ValueError, match="At most a share of 0.25 of the records may be bad"):
        with bad_records.as_value_error():
            taken(source, vocabulary, 5, **options)


def test_an_image_is_not_decoded_for_its_text_nor_a_caption_needed_for_its_image(
    source, vocabulary, tmp_path
):
    records = [example(jpg=b"no image", caption=b"image 1 caption 0")] * 20
    texts = sources.TfrecordSource(write(tmp_path / "texts", records))
    images = sources.TfrecordSource(write(tmp_path / "images", [example(jpg=jpeg(50))] * 20))
    bad_records = BadRecords()
    options = {"lone_images": images, "lone_texts": texts, "bad_records": bad_records}
    (batch,) = taken(source, vocabulary, 1, **options)
    assert bad_records.count == 0
    assert set(read(batch["lone_text"], vocabulary)) == {"image 1 caption 0"}
    np.testing.assert_allclose(images_drawn(batch["lone_image"]), 50, atol=1)


@pytest.mark.parametrize("hosts, replicas", [(1, 2), (2, 2), (2, 4)])
def test_replicas_share_the_batches_of_one_device(
    source, vocabulary, images_only, texts_only, hosts, replicas
):
    lone = {"lone_images": images_only, "lone_texts": texts_only}
    expected = taken(source, vocabulary, 5, start_step=1, **lone)
    per_host = replicas // hosts
    by_host = []
    for host in range(hosts):
        context = tf.distribute.InputContext(hosts, host, replicas)
        by_host.append(
            taken(
                source, vocabulary, 5 * per_host, start_step=1, input_context=context, **lone
            )
        )  # fmt: skip
    for step, batch in enumerate(expected):
        own = slice(step * per_host, (step + 1) * per_host)
        parts = [part for host in by_host for part in host[own]]
        assert [part["image"].shape[0] for part in parts] == [8 // replicas] * replicas
        joined = {name: np.concatenate([part[name] for part in parts]) for name in batch}
        assert_same([joined], [batch])
