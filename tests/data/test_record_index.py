"""The index of record files: built once, stored, and rebuilt for files that have changed."""

import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import many_files, record_index
from limoe_tf.data.record_gaps import read_gap
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import RecordFile, raw_records
from tests.data.test_position import source_of, write_files
from tests.shared.record_files import write


def runs_of(paths):
    return source_of([RecordFile(path, 0, -1) for path in paths])


@pytest.fixture
def indexed(monkeypatch):
    """The names of the files that are indexed during a test."""
    names, index = [], record_index._index

    def noted(path, *others):
        names.append(os.path.basename(path))
        return index(path, *others)

    monkeypatch.setattr(record_index, "_index", noted)
    return names


def test_marks_are_where_records_begin(tmp_path):
    sizes = np.random.default_rng(0).integers(0, 300, 150)
    path = write(tmp_path / "a", [bytes(size) for size in sizes])
    index = RecordIndex()
    (run,) = index.runs(runs_of([path]))
    assert run == RecordFile(path, 0, 150, size=os.path.getsize(path))
    # A record has 16 bytes of frame.
    begins = np.concatenate([[0], np.cumsum(sizes + 16)])
    for first, mark in [(0, 0), (63, 0), (64, 64), (127, 64), (128, 128), (149, 128)]:
        marked = index.marked(run._replace(first=first, count=150 - first))
        assert (marked.mark, marked.offset) == (mark, begins[mark])


def test_files_need_not_be_local(indexed):
    folder = "ram://record_index"
    path, kept = write(f"{folder}/a", [bytes(n) for n in range(70)]), f"{folder}/run/index.npz"
    for _ in range(2):
        index = RecordIndex(kept)
        assert [run[:5] for run in index.runs(runs_of([path]))] == [(path, 0, 70, 0, 0)]
        offset = sum(range(64)) + 64 * 16
        assert index.marked(RecordFile(path, 65, 5)) == RecordFile(path, 65, 5, 64, offset)
    assert indexed == ["a"]


def test_an_index_is_kept_and_only_changed_files_are_indexed_anew(tmp_path, indexed, capsys):
    (tmp_path / "files").mkdir()
    paths, kept = write_files(tmp_path / "files", [3, 70, 0]), str(tmp_path / "run" / "index.npz")
    source = runs_of(paths)
    first = RecordIndex(kept)
    assert [run.count for run in first.runs(source)] == [3, 70, 0]
    assert first.runs(source) == first.runs(source)
    assert sorted(indexed) == ["00", "01", "02"]
    again = RecordIndex(kept)
    assert again.runs(source) == first.runs(source)
    run = first.runs(source)[1]._replace(first=69, count=1)
    assert again.marked(run) == first.marked(run)
    assert len(indexed) == 3
    # Another source in the same index, as of a mixture, leaves the first in it.
    more = write(tmp_path / "more", [b"record"])
    RecordIndex(kept).runs(runs_of([more]))
    write(tmp_path / "files" / "01", [b"x"] * 71)
    source = runs_of(paths)
    capsys.readouterr()
    assert [run.count for run in RecordIndex(kept).runs(source)] == [3, 71, 0]
    assert sorted(indexed) == ["00", "01", "01", "02", "more"]
    assert capsys.readouterr().out == (
        "1 files of files have changed since they were indexed: the order of its records changes.\n"
    )
    RecordIndex(kept).runs(runs_of([*paths, more]))
    assert len(indexed) == 5


def test_a_file_of_the_same_size_that_was_written_later_is_indexed_anew(tmp_path, indexed):
    path, kept = write(tmp_path / "a", [b"12345678"] * 2), str(tmp_path / "index.npz")
    RecordIndex(kept).runs(runs_of([path]))
    write(path, [bytes(32)])
    os.utime(path, ns=(0, 1))
    assert RecordIndex(kept).runs(runs_of([path]))[0].count == 1
    assert indexed == ["a", "a"]


def test_a_write_that_breaks_off_leaves_the_old_index(tmp_path, monkeypatch, indexed):
    paths, kept = write_files(tmp_path, [2, 3]), str(tmp_path / "index.npz")
    RecordIndex(kept).runs(runs_of(paths[:1]))

    def broken(*args, **others):
        raise tf.errors.ResourceExhaustedError(None, None, "disk full")

    with monkeypatch.context() as patched:
        patched.setattr(tf.io.gfile, "rename", broken)
        with pytest.raises(tf.errors.ResourceExhaustedError):
            RecordIndex(kept).runs(runs_of(paths))
    (tmp_path / "index.npz.new").write_bytes(b"torn")
    assert [run.count for run in RecordIndex(kept).runs(runs_of(paths))] == [2, 3]
    assert indexed == ["00", "01", "01"]
    (tmp_path / "index.npz").write_bytes(b"torn")
    with pytest.raises(ValueError, match="delete it to rebuild it. Received: .*index.npz"):
        RecordIndex(kept).runs(runs_of(paths))


def test_an_empty_source_is_an_error_and_a_lack_of_records_a_gap(tmp_path):
    paths = write_files(tmp_path, [0, 0, 5])
    with pytest.raises(ValueError, match="must hold at least one record. Received: files, empty"):
        RecordIndex().runs(runs_of(paths[:2]))
    stated = [RecordFile(paths[2], first, 3, stated=8) for first in (0, 3, 6)]
    # Five records, a gap in place of the sixth, and nothing of the last two.
    source = source_of(stated)
    assert [run.count for run in RecordIndex().runs(source)] == [3, 3, 0]
    *records, gap = (record for _, _, record in raw_records(source).as_numpy_iterator())
    assert records == [f"2/{i}".encode() for i in range(5)]
    assert read_gap(gap).reason == "file has fewer records than its data set says"


def test_a_long_indexing_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(many_files, "_SECONDS_BETWEEN_LINES", 0)
    RecordIndex().runs(runs_of(write_files(tmp_path, [1, 2])))
    lines = capsys.readouterr().out.splitlines()
    for line, (done, number) in zip(lines, itertools.product(["Looked at", "Indexed"], [1, 2])):
        assert line.startswith(f"{done} {number} of 2 files of files: ") and line.endswith(" left")
    assert len(lines) == 4 and lines[-1].endswith("0:00 left")
