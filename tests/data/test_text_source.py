"""Text files as a source: lines, bad ones among them, and the same order from any place on."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, lines, masked_batches, record_stream, words
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import raw_records
from limoe_tf.data.sources import TfrecordSource
from limoe_tf.data.text_source import TextSource
from tests.data.test_batches import assert_same
from tests.shared.record_files import write, write_pairs

SETTINGS = {"batch_size": 8, "image_size": None, "seed": 5, "shuffle_window": 20}


def write_texts(folder, counts):
    """Writes texts "a red 3/17", line 17 of file 3, among blank lines; returns the source."""
    for file, count in enumerate(counts):
        texts = [f"a red {file}/{number}" + "\n \n" * (number % 3 == 0) for number in range(count)]
        (folder / f"{file:02}.txt").write_text("\n".join(texts))
    return TextSource(str(folder / "*.txt"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"), [40, 0, 1, 64, 130, 17])


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("words") / "words.model")
    captions = [f"a red image {i}/{i} caption {i}" for i in range(40)]
    words.train_vocabulary(captions, path=path, size=40, algorithm="bpe")
    return words.Vocabulary(path, text_length=10)


@pytest.fixture
def small_chunks(request, monkeypatch):
    monkeypatch.setattr(lines, "_CHUNK_BYTES", request.param)


CONTENTS = {
    "unix": b"one\ntwo three\n\n  \t\nfour\n",
    "windows": b"one\r\n\r\ntwo\r\n",
    "no end": b"\n\none\ntwo",
    "one line": b"alone",
    "spaces": b"  one \n\t\n two\t",
    "chunks of seven": b"123456\n123456\n1234567",
}


@pytest.mark.parametrize("small_chunks", [7, 1000], indirect=True)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_records_are_the_lines_without_blank_ones(tmp_path, small_chunks, content):
    (tmp_path / "a").write_bytes(content)
    expected = [line.strip() for line in content.split(b"\n") if line.strip()]
    found = list(raw_records(TextSource(str(tmp_path / "a"))).as_numpy_iterator())
    assert [record for _, _, record in found] == expected
    assert [number for _, number, _ in found] == list(range(len(expected)))
    assert {path for path, _, _ in found} == {f"{tmp_path}/a".encode()}


@pytest.mark.parametrize("small_chunks", [7, 1 << 20], indirect=True)
def test_marks_are_where_lines_begin_and_reading_can_begin_there(tmp_path, small_chunks):
    texts = ["é" * (number % 9 + 1) + "\n" * (number % 4 + 1) for number in range(200)]
    (tmp_path / "a").write_text("".join(texts))
    source, index = TextSource(str(tmp_path / "a")), RecordIndex(str(tmp_path / "index.npz"))
    (run,) = index.runs(source)
    assert run.count == 200
    begins = np.cumsum([0, *(len(text.encode()) for text in texts)])
    for first, mark in [(0, 0), (63, 0), (64, 64), (199, 192)]:
        marked = RecordIndex(str(tmp_path / "index.npz"))
        marked.runs(source)
        marked = marked.marked(run._replace(first=first, count=200 - first))
        assert (marked.mark, marked.offset) == (mark, begins[mark])
        stream = record_stream.endless_records(source, seed=0, first=first, index=index)
        found = [(number, line.decode()) for _, number, line in stream.take(3).as_numpy_iterator()]
        places = [place % 200 for place in range(first, first + 3)]
        assert found == [(place, texts[place].strip()) for place in places]


def test_begun_anywhere_it_is_the_tail_of_the_stream(source):
    total, index = 252, RecordIndex()

    def read(first, count, **others):
        stream = record_stream.endless_records(source, seed=3, first=first, **others).take(count)
        return [line.decode() for _, _, line in stream.as_numpy_iterator()]

    whole = read(0, 2 * total)
    for epoch in (whole[:total], whole[total:]):
        assert len(set(epoch)) == total
    for first in (1, 100, total + 150):
        assert read(first, 40, index=index) == whole[first : first + 40]
    assert read(total - 7, 40, in_graph=True) == whole[total - 7 :][:40]


def test_training_on_texts_goes_on_to_the_bit(source, vocabulary):
    def read(start_step, **others):
        settings = {**SETTINGS, "num_draws": 3, **others}
        return batches.training_batches(
            source, vocabulary=vocabulary, start_step=start_step, **settings
        )

    # 252 texts: batch 31 has the end of the first epoch, in the middle of a window.
    whole = list(read(0).take(35))
    assert_same(whole[29:], read(29, num_threads=1).take(6))
    hosts = [
        read(29, input_context=tf.distribute.InputContext(2, host, 2)).take(6) for host in range(2)
    ]
    for batch, parts in zip(whole[29:], zip(*hosts), strict=True):
        for name, values in batch.items():
            np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))


def test_masked_batches_take_their_texts_from_lines(source, vocabulary, tmp_path):
    pairs = TfrecordSource(write_pairs(tmp_path / "pairs", 40))

    def read(**settings):
        return masked_batches.masked_batches(
            pairs, vocabulary=vocabulary, lone_texts=source, **{**SETTINGS, "image_size": 16},
            patch_size=4, word_share=0.3, pair_word_share=0.5, patch_share=0.4,
            pair_patch_share=0.25, **settings,
        )  # fmt: skip

    whole = list(read().take(6))
    assert_same(whole[4:], read(start_step=4).take(2))
    expected, _ = vocabulary(tf.constant([f"a red {f}/{n}" for f in range(6) for n in range(130)]))
    known = {tuple(text) for text in expected.numpy()}
    for batch in whole:
        assert {tuple(text) for text in batch["lone_text"].numpy()} <= known


def test_what_is_bad_of_a_text_is_counted_and_named(tmp_path):
    good = [f"text {number}".encode() for number in range(20)]
    bad = [b"caf\xe9", "\u200b\u3000".encode(), b"x" * 10_001, b"y" * 300_000]
    content = b"\n\n".join([*good[:3], *bad[:2], *good[3:], *bad[2:]])
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + content)
    bad_records = BadRecords()
    source = TextSource(str(tmp_path / "a"))
    found = list(batches.all_captions(source, bad_records=bad_records))
    # The mark at the beginning of the file is no part of the first text.
    assert found == [text.decode() for text in good]
    assert bad_records.report() == (
        "4 bad among the first 24 records read: "
        f"2 x caption of more than 10000 bytes ({tmp_path}/a record 22, {tmp_path}/a record 23); "
        f"1 x caption is not UTF-8 ({tmp_path}/a record 3); "
        f"1 x nothing to be seen in the line ({tmp_path}/a record 4)"
    )


@pytest.mark.parametrize("small_chunks", [1000], indirect=True)
def test_a_line_without_an_end_takes_no_more_memory_than_a_long_one(tmp_path, small_chunks):
    (tmp_path / "a").write_bytes(b"z" * 200_000 + b"\nnext")
    cut, following = raw_records(TextSource(str(tmp_path / "a"))).as_numpy_iterator()
    assert len(cut[-1]) <= (1 << 16) + 1000 and following[-1] == b"next"


FOREIGN = {
    "a.gz": (gzip.compress(b"a text\n"), "gzip"),
    "b.parquet": (b"PAR1" + bytes(500), "Parquet"),
    "c.zst": (b"\x28\xb5\x2f\xfd" + bytes(range(200, 250)), "zstd"),
}


def test_what_is_no_text_is_left_out_and_named(tmp_path, capsys):
    for name, (content, _) in FOREIGN.items():
        (tmp_path / name).write_bytes(content)
    write(tmp_path / "d.tfrecord", [b"record"])
    (tmp_path / "folder").mkdir()
    pattern = str(tmp_path / "*")
    with pytest.raises(ValueError, match=r"must be plain texts. Received: .*a.gz \(gzip\)"):
        TextSource(pattern)
    (tmp_path / "t").write_text("[loud] applause\n")
    (tmp_path / "u").touch()
    (tmp_path / "v").write_bytes("größer\n".encode("latin-1") * 300)
    source = TextSource(pattern)
    assert [file.path[-1] for file in source.files] == ["t", "u", "v"]
    foreign, empty = capsys.readouterr().out.splitlines()
    assert foreign.startswith(f"Left out of {pattern}, no plain texts: ")
    kinds = {name: kind for name, (_, kind) in FOREIGN.items()}
    for name, kind in {**kinds, "d.tfrecord": "TFRecords", "folder": "folder"}.items():
        assert f"{tmp_path}/{name} ({kind})" in foreign
    assert empty == f"Without a record in {pattern}: {tmp_path}/u (empty)"


def test_a_text_without_a_line_is_an_empty_source(tmp_path):
    (tmp_path / "a").write_bytes(b"\n \n" * 100)
    source = TextSource(str(tmp_path / "a"))
    for first in (0, 5):
        with pytest.raises(ValueError, match="at least one record. Received: .*, empty"):
            record_stream.endless_records(source, seed=0, first=first)
    with pytest.raises(ValueError, match="`pattern` must match at least one file"):
        TextSource(str(tmp_path / "b*"))


@pytest.mark.parametrize("change", [b"", b"longer now\n" * 3], ids=["shorter", "longer"])
def test_a_text_that_changes_is_an_error_that_names_it(tmp_path, change):
    (tmp_path / "a").write_bytes(b"a text\n" * 100)
    source, index = TextSource(str(tmp_path / "a")), RecordIndex()
    index.runs(source)
    (tmp_path / "a").write_bytes(b"a text\n" * 90 + change)
    stream = record_stream.endless_records(source, seed=0, first=70, index=index)
    with pytest.raises(tf.errors.OpError, match=f"{tmp_path}/a"):
        list(stream.take(100))
    with pytest.raises(ValueError, match=f"{tmp_path}/a, 700 bytes before and"):
        RecordIndex().runs(source)


def test_texts_have_no_images_and_give_a_vocabulary(source):
    assert (source.has_images, source.has_captions, source.has_labels) == (False, True, False)
    with pytest.raises(ValueError, match="A source must have images to train on"):
        batches.training_batches(source, vocabulary=None, **{**SETTINGS, "image_size": 16})
    captions = set(batches.all_captions(source))
    assert len(captions) == 252 and {"a red 4/129", "a red 0/0"} <= captions
