"""Damaged files: every whole record is read, in one order, and what is lost is named."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, record_stream, sources
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.record_gaps import read_gap
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import raw_records
from tests.shared.record_files import write, write_pairs

FRAME = 16


def records_of(rng, count):
    """Returns records of up to 300 bytes, some empty, each unlike all others."""
    return [b"%d|" % i + rng.bytes(rng.integers(300)) for i in range(count)]


def flip(content, rng):
    place = rng.integers(len(content))
    content[place] ^= 1 << rng.integers(8)
    return content


def cut(content, rng):
    return content[: rng.integers(1, len(content))]


def cut_within_a_header(content, rng):
    ends = np.flatnonzero(np.diff(starts(content))) + 1
    return content[: rng.choice(ends) + rng.integers(1, 12)]


def leave_out(content, rng):
    place = rng.integers(len(content))
    return content[:place] + content[place + rng.integers(1, 700) :]


def put_in(content, rng):
    place = rng.integers(len(content))
    return content[:place] + rng.bytes(rng.integers(1, 700)) + content[place:]


def blank(content, rng):
    place = rng.integers(len(content))
    end = min(place + rng.integers(1, 700), len(content))
    content[place:end] = bytes(end - place)
    return content


def starts(content):
    """Returns <int64>[bytes]: how many records begin at or before a byte."""
    count, place = np.zeros(len(content), np.int64), 0
    while place < len(content):
        count[place:] += 1
        place += FRAME + int.from_bytes(content[place : place + 8], "little")
    return count


WAYS = [flip, cut, cut_within_a_header, leave_out, put_in, blank]


def source_of(path):
    return sources.TfrecordSource(str(path))


def read(source, count, *, first=0, index=None):
    stream = record_stream.endless_records(source, seed=3, first=first, index=index).take(count)
    return [(int(number), record) for _, number, record in stream.as_numpy_iterator()]


@pytest.mark.parametrize("way", WAYS)
def test_whole_records_are_read_and_gaps_stand_between_them(tmp_path, way):
    rng, path = np.random.default_rng(WAYS.index(way)), tmp_path / "a"
    for _ in range(3):
        records = records_of(rng, 100)
        write(path, records)
        whole = path.read_bytes()
        damaged = bytes(way(bytearray(whole), rng))
        path.write_bytes(damaged)
        # A record is whole if its frame stands in the file as it was written.
        ends = np.cumsum([len(record) + FRAME for record in records])
        frames = np.split(np.frombuffer(whole, np.uint8), ends[:-1])
        wanted = [r for r, frame in zip(records, frames) if frame.tobytes() in damaged]
        found = [(int(n), record) for _, n, record in raw_records(source_of(path))]
        found = [(n, record.numpy()) for n, record in found]
        assert [number for number, _ in found] == list(range(len(found)))
        gaps = [read_gap(record) for _, record in found]
        assert [record for (_, record), gap in zip(found, gaps) if not gap] == wanted
        gaps = [gap for gap in gaps if gap]
        assert 1 <= len(gaps) <= 4 or damaged in whole
        lost = sum(gap.end - gap.begin for gap in gaps)
        assert lost == len(damaged) - sum(len(record) + FRAME for record in wanted)


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_of_damaged_files_can_be_begun_anywhere(tmp_path, way):
    rng = np.random.default_rng(10 + WAYS.index(way))
    for file in range(5):
        path = tmp_path / str(file)
        write(path, records_of(rng, 150))
        if file % 2:
            path.write_bytes(way(bytearray(path.read_bytes()), rng))
    source, index = source_of(tmp_path / "*"), RecordIndex()
    total = sum(run.count for run in index.runs(source))
    assert total == len(list(raw_records(source)))
    whole = read(source, total + 200)
    for first in [1, total - 1, total, *rng.integers(total, size=5)]:
        assert read(source, 70, first=first, index=index) == whole[first : first + 70], first


def test_each_reason_is_told_with_file_number_and_bytes(tmp_path):
    path = tmp_path / "a"
    write_pairs(path, 6)
    content = path.read_bytes()
    begin = np.flatnonzero(np.diff(starts(content))) + 1
    reports = {
        "file is cut off within a record": content[: begin[3] + 100],
        "checksum of a record does not fit": content.replace(
            content[begin[3] - 9 : begin[3]], b"123456789"
        ),
        "damage between records": content[: begin[2]] + bytes(20) + content[begin[2] + 20 :],
    }
    numbers = [(4, begin[3], begin[3] + 100), (3, begin[2], begin[3]), (3, begin[2], begin[3])]
    for (reason, damaged), (number, first, last) in zip(reports.items(), numbers):
        path.write_bytes(damaged)
        bad_records = BadRecords()
        dataset = batches.evaluation_batches(
            source_of(path), batch_size=8, image_size=8, bad_records=bad_records
        )
        assert sum(len(batch["image"]) for batch in dataset) == (4 if "cut" in reason else 5)
        place = f"{path} record {number} (bytes {first:,} to {last:,})"
        assert f": 1 x {reason} ({place})" in bad_records.report()


@pytest.mark.parametrize("size", [40, 4000])
def test_of_a_damaged_compressed_file_all_before_the_damage_is_read(tmp_path, size):
    rng, path = np.random.default_rng(0), tmp_path / "a"
    records = [rng.bytes(size) for _ in range(50)]
    write(path, records, "GZIP")
    content = path.read_bytes()
    for damaged in (
        content[: len(content) // 2],
        content[:-12],
        gzip.compress(gzip.decompress(content)[: 30 * (size + FRAME) + 5]),
        content + b"more",
    ):
        path.write_bytes(damaged)
        source = source_of(path)
        found = [record.numpy() for _, _, record in raw_records(source)]
        assert found[:-1] == records[: len(found) - 1] and len(found) > 1
        assert read_gap(found[-1]).reason == "compressed file is damaged or cut off"
        assert [run.count for run in RecordIndex().runs(source)] == [len(found)]
    # Two files put together are one.
    path.write_bytes(content + content)
    assert [record.numpy() for _, _, record in raw_records(source_of(path))] == 2 * records


def test_a_file_that_changes_while_it_is_used_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a"
    write(path, [b"record"] * 9)
    source, content = source_of(path), path.read_bytes()
    for changed in (content[:-5], content + b"12345", content + content):
        path.write_bytes(changed)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"as it is.*{path}"):
            list(raw_records(source))
        with pytest.raises(ValueError, match=f"stay as it is while it is used. Received: {path}"):
            RecordIndex().runs(source)
