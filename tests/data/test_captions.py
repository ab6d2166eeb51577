"""Captions in which nothing can be seen have no tokens, and are bad wherever they come from."""

import sys
import unicodedata

import pytest
import sentencepiece
import tensorflow as tf

from limoe_tf.data import batches, sources
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.captions import are_blank, is_blank
from limoe_tf.data.labels import LabelCaptions
from limoe_tf.data.words import Vocabulary, train_vocabulary
from tests.shared.record_files import example, jpeg, write

BLANK = [
    "", " ", "\t\n\r", "\x00", "\x07\x1b", "\u200b", "\u200d\ufeff", "\u2060\u00ad", "\u3000",
    "\u2800\u3164", "\ufe0f", "\U000e0001\U000e007f", "\ufffd", "\u2581", "\x00dog", " \x00 a dog",
]  # fmt: skip
SEEN = ["a", ".", "-", "\u00b4", "\u4e2d", "\U0001f436", "\u200ba", "dog\x00", "1\x00\n2", "\u0301"]


def test_a_graph_and_python_agree_on_what_is_blank():
    assert all(map(is_blank, BLANK)) and not any(map(is_blank, SEEN))
    assert are_blank(tf.constant(BLANK)).numpy().all()
    assert not are_blank(tf.constant([*SEEN, b"\xff", b" \xe9 "])).numpy().any()


def test_every_character_that_is_not_blank_has_a_token(tmp_path):
    path = str(tmp_path / "words.model")
    train_vocabulary(["a dog", "a cat"], path=path, size=20, exact_size=False)
    pieces = sentencepiece.SentencePieceProcessor(model_file=path)
    letters = [chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    without = [letter for letter, ids in zip(letters, pieces.encode(letters)) if not ids]
    assert " " in without and all(map(is_blank, without))
    # What Unicode calls spaces, lines and controls is blank.
    named = [c for c in letters if unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc")]
    assert all(map(is_blank, named))


@pytest.mark.parametrize("blank", BLANK)
def test_blank_captions_are_passed_over_where_there_are_others(tmp_path, blank):
    records = [
        example(jpg=jpeg(), caption=[blank.encode(), b"a dog"]),
        example(jpg=jpeg(), caption=[blank.encode()] * 2),
    ]
    bad_records = BadRecords()
    source = sources.TfrecordSource(write(tmp_path / "a", records))
    assert list(batches.all_captions(source, bad_records=bad_records)) == ["a dog"]
    assert f"1 x no caption ({tmp_path}/a record 1)" in bad_records.report()


def test_class_names_in_which_nothing_is_seen_are_no_captions(tmp_path):
    records = [example(jpg=jpeg(), caption=[b"_", b"dog"]), example(jpg=jpeg(), caption=b"__")]
    source = sources.TfrecordSource(write(tmp_path / "a", records))
    bad_records = BadRecords()
    named = LabelCaptions(source, text_labels=True)
    assert list(batches.all_captions(named, bad_records=bad_records)) == ["dog"]
    assert bad_records.reasons == {"no label": 1}
    labelled = sources.TfrecordSource(source.name, captions=None, labels="label")
    with pytest.raises(ValueError, match="must not be empty. Received: no name for label 1"):
        LabelCaptions(labelled, class_names=["dog", "\u200b"])


def test_blank_captions_teach_a_vocabulary_nothing(tmp_path):
    paths = [str(tmp_path / name) for name in ("one", "two")]
    train_vocabulary(["a dog", *BLANK], path=paths[0], size=20, exact_size=False)
    train_vocabulary(["a dog"], path=paths[1], size=20, exact_size=False)
    one, two = (Vocabulary(path, text_length=4).sha256 for path in paths)
    assert one == two
