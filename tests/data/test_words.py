import unicodedata

import keras
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from limoe_tf.data import words

CAPTIONS = ["A red circle on the left", "two blue stars near a green ring", "The quick brown fox"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "new" / "words.model"
    words.train_vocabulary(CAPTIONS * 20, path=str(path), size=80, algorithm="bpe")
    return str(path)


@pytest.fixture(scope="module")
def pieces(path):
    return sentencepiece.SentencePieceProcessor(model_file=path)


def test_ids_follow_the_convention_of_t5(path, pieces):
    vocabulary = words.Vocabulary(path, text_length=8)
    assert vocabulary.size == 80
    assert (pieces.pad_id(), pieces.eos_id(), pieces.unk_id(), pieces.bos_id()) == (0, 1, 2, -1)
    assert vocabulary.end_id == 1


def test_words_are_all_pieces_but_padding_end_and_unknown(path, pieces):
    vocabulary = words.Vocabulary(path, text_length=16)
    assert vocabulary.words() == list(range(3, 80))
    text, text_valid = (one.numpy() for one in vocabulary([*CAPTIONS, "\u6587"]))
    # An end in each of four texts, and one character that is in no caption.
    assert sorted(set(text[text_valid]) - set(vocabulary.words())) == [1, 2]
    assert set(text[text_valid]) - {1, 2} == {
        i for one in CAPTIONS for i in pieces.encode(one.lower())
    } | {pieces.piece_to_id("\u2581")}


def test_control_pieces_of_another_vocabulary_are_no_words(tmp_path):
    path = str(tmp_path / "words")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS * 20), model_prefix=path, vocab_size=60, model_type="bpe",
        control_symbols=["<sep>"], user_defined_symbols=["<red>"], minloglevel=2,
    )  # fmt: skip
    vocabulary = words.Vocabulary(f"{path}.model", text_length=8)
    # Unknown, beginning and end of a sentence are the first three there, then <sep> and <red>.
    assert vocabulary.pieces()[:5] == ["<unk>", "<s>", "</s>", "<sep>", "<red>"]
    assert vocabulary.words() == list(range(4, 60))


def test_short_captions_are_filled_up_with_the_end(path, pieces):
    text, text_valid = words.Vocabulary(path, text_length=8)(["red circle"])
    tokens = pieces.encode("red circle")
    assert len(tokens) < 7
    rest = 8 - len(tokens)
    np.testing.assert_array_equal(text, [tokens + [1] * rest])
    # The first end belongs to the sentence, the others are padding.
    np.testing.assert_array_equal(text_valid, [[True] * (len(tokens) + 1) + [False] * (rest - 1)])


def test_the_end_stays_when_a_caption_is_cut(path, pieces):
    caption = "two blue stars near a green ring"
    tokens = pieces.encode(caption)
    for length in range(2, len(tokens) + 3):
        text, text_valid = words.Vocabulary(path, text_length=length)([caption])
        kept = tokens[: length - 1]
        np.testing.assert_array_equal(text, [kept + [1] * (length - len(kept))])
        assert np.sum(text_valid) == len(kept) + 1


def test_letters_are_lowered_beyond_ascii(path):
    vocabulary = words.Vocabulary(path, text_length=8)
    text, _ = vocabulary(["A RED Circle", "a red circle", "CAFÉ", "café"])
    np.testing.assert_array_equal(text[0], text[1])
    np.testing.assert_array_equal(text[2], text[3])


def test_empty_captions_and_bytes_that_are_no_utf8_give_texts(path):
    text, text_valid = words.Vocabulary(path, text_length=6)([b"", b"\xff\xfe red"])
    np.testing.assert_array_equal(text[0], [1] * 6)
    assert np.sum(text_valid[0]) == 1
    assert np.sum(text_valid[1]) > 1


def test_shapes_are_static_in_a_dataset(path):
    vocabulary = words.Vocabulary(path, text_length=6)
    dataset = tf.data.Dataset.from_tensor_slices(CAPTIONS).batch(3, drop_remainder=True)
    text, text_valid = dataset.map(vocabulary).element_spec
    assert text == tf.TensorSpec([3, 6], tf.int32)
    assert text_valid == tf.TensorSpec([3, 6], tf.bool)


def test_a_vocabulary_outlives_the_setting_of_a_seed(path):
    vocabulary = words.Vocabulary(path, text_length=6)
    function = tf.function(vocabulary)
    dataset = tf.data.Dataset.from_tensors(CAPTIONS).repeat().map(vocabulary)
    batches = iter(dataset)
    expected, _ = vocabulary(CAPTIONS)
    for seed in range(2):
        np.testing.assert_array_equal(vocabulary(CAPTIONS)[0], expected)
        np.testing.assert_array_equal(function(tf.constant(CAPTIONS))[0], expected)
        np.testing.assert_array_equal(next(batches)[0], expected)
        np.testing.assert_array_equal(next(iter(dataset))[0], expected)
        keras.utils.set_random_seed(seed)


def test_training_again_gives_the_same_file(path, tmp_path):
    words.train_vocabulary(CAPTIONS * 20, path=str(tmp_path / "x"), size=80, algorithm="bpe")
    with open(path, "rb") as file:
        assert (tmp_path / "x").read_bytes() == file.read()


def test_a_corpus_too_small_for_the_size_is_an_error_that_says_what_fits(tmp_path):
    path = str(tmp_path / "x")
    with pytest.raises(ValueError, match="`size` must be at most (31) for .* size=500") as error:
        words.train_vocabulary(CAPTIONS * 20, path=path, size=500)
    fitting = int(str(error.value).split("at most ")[1].split()[0])
    assert words.train_vocabulary(CAPTIONS * 20, path=path, size=fitting) == fitting
    assert words.train_vocabulary(CAPTIONS * 20, path=path, size=500, exact_size=False) == fitting


def test_a_size_too_small_for_the_letters_is_an_error_that_says_what_fits(tmp_path):
    path = str(tmp_path / "x")
    with pytest.raises(ValueError, match="`size` must be at least (24) for .* size=10") as error:
        words.train_vocabulary(CAPTIONS * 20, path=path, size=10)
    fitting = int(str(error.value).split("at least ")[1].split()[0])
    assert words.train_vocabulary(CAPTIONS * 20, path=path, size=fitting) == fitting


@pytest.mark.parametrize("captions", [[], ["", " "]])
def test_no_captions_are_an_error(captions, tmp_path):
    with pytest.raises(ValueError, match="at least one caption that is not empty"):
        words.train_vocabulary(captions, path=str(tmp_path / "x"), size=50)


@pytest.mark.parametrize("content", [b"", b"no model at all " * 20, b"\0" * 50])
def test_a_file_that_is_no_model_is_an_error(content, tmp_path):
    path = tmp_path / "words.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="`path` must be a SentencePiece model.*words.model"):
        words.Vocabulary(str(path), text_length=8)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="`path` must be an existing file"):
        words.Vocabulary(str(tmp_path / "nothing"), text_length=8)


def test_a_text_without_room_for_a_word_is_an_error(path):
    with pytest.raises(ValueError, match="`text_length` must be at least 2"):
        words.Vocabulary(path, text_length=1)


def test_prompts_are_brought_to_one_form():
    assert words.canonical("  A photo_of  the 'Polar-Bear'!\n") == "a photo of the polarbear"
    assert words.canonical("a photo of the polarbear") == "a photo of the polarbear"


def test_a_graph_makes_texts_canonical_as_python_does():
    older = unicodedata.ucd_3_2_0
    characters = [chr(c) for c in range(1, 0x110000) if older.category(chr(c)) not in ("Cn", "Cs")]
    assert len(characters) > 200_000
    texts = [f"A{c}B _{c}{c}" for c in characters]
    found = words.canonical_tensor(tf.constant(texts)).numpy()
    for text, value in zip(texts, found, strict=True):
        assert value.decode() == words.canonical(text), ascii(text)


def test_a_graph_makes_runs_of_strange_characters_canonical_as_python_does():
    random = np.random.default_rng(0)
    characters = list("aZ_-.!'{} \t\n\x1f\x85\xa0\u2003\u3000\u200bΣσİßẞÉéA\u0301ǅ文")
    texts = ["".join(random.choice(characters, size)) for size in range(40) for _ in range(50)]
    found = words.canonical_tensor(tf.constant(texts)).numpy()
    assert [value.decode() for value in found] == [words.canonical(text) for text in texts]
