"""Damaged files: every whole record is read, in one order, and what is lost is named."""

import collections
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


def read(source, count, **settings):
    stream = record_stream.endless_records(source, seed=3, **settings).take(count)
    return [(int(number), record) for _, number, record in stream.as_numpy_iterator()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files damaged in each way and a whole one, with what they held: path to two bytes."""
    folder, rng = tmp_path_factory.mktemp("damaged"), np.random.default_rng(0)
    for number, way in enumerate(WAYS * 3):
        path = folder / f"{number:02}"
        write(path, records_of(rng, 100))
        whole = path.read_bytes()
        path.with_suffix(".whole").write_bytes(whole)
        path.write_bytes(way(bytearray(whole), rng))
    write(folder / "18", records_of(rng, 100))
    (folder / "18.whole").write_bytes((folder / "18").read_bytes())
    return folder


@pytest.fixture(scope="module")
def read_once(folder):
    """A dict from path to what is read of the file: lists of number and record."""
    found = collections.defaultdict(list)
    for path, number, record in raw_records(source_of(folder / "??")):
        found[path.numpy().decode()].append((int(number), record.numpy()))
    return found


def test_whole_records_are_read_and_gaps_stand_between_them(folder, read_once):
    num_gaps = 0
    for path in folder.glob("??"):
        whole, damaged = path.with_suffix(".whole").read_bytes(), path.read_bytes()
        # A record is whole if its frame stands in the file as it was written.
        frames = np.split(
            np.frombuffer(whole, np.uint8), np.flatnonzero(np.diff(starts(whole))) + 1
        )
        wanted = [frame.tobytes() for frame in frames if frame.tobytes() in damaged]
        numbers, found = zip(*read_once[str(path)])
        assert numbers == tuple(range(len(found)))
        gaps = [gap for gap in map(read_gap, found) if gap]
        assert [r for r in found if not read_gap(r)] == [frame[12:-4] for frame in wanted]
        assert sum(gap.end - gap.begin for gap in gaps) == len(damaged) - sum(map(len, wanted))
        num_gaps += len(gaps)
    assert num_gaps >= 15


def test_a_stream_of_damaged_files_can_be_begun_anywhere(folder, read_once):
    source, index = source_of(folder / "??"), RecordIndex()
    runs = index.runs(source)
    assert [run.count for run in runs] == [len(read_once[run.path]) for run in runs]
    total = sum(run.count for run in runs)
    whole = read(source, 2 * total)
    for first in [1, *np.random.default_rng(1).integers(2 * total - 70, size=5)]:
        in_graph = first % 2 == 0
        begun = read(source, 70, first=int(first), index=index, in_graph=in_graph)
        assert begun == whole[first : first + 70]


def test_each_reason_is_told_with_file_number_and_bytes(tmp_path):
    path = tmp_path / "a"
    write_pairs(path, 6)
    content = path.read_bytes()
    begin = [0, *np.flatnonzero(np.diff(starts(content))) + 1]
    damaged = {
        "file is cut off, or damaged to its end": (content[: begin[4] + 100], 4, 100),
        "damage between whole records": (content[: begin[4] - 1] + content[begin[4] :], 3, None),
    }
    for reason, (content, number, size) in damaged.items():
        path.write_bytes(content)
        bad_records = BadRecords()
        dataset = batches.evaluation_batches(
            source_of(path), batch_size=8, image_size=8, bad_records=bad_records
        )
        assert sum(len(batch["image"]) for batch in dataset) == (4 if size else 5)
        end = begin[number] + size if size else begin[4] - 1
        place = f"{path} record {number} (bytes {begin[number]:,} to {end:,})"
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
        assert read_gap(found[-1]).reason == "compressed file is cut off, damaged, or more than one"
        assert [run.count for run in RecordIndex().runs(source)] == [len(found)]
    # Of two files put together all is read; that this is all is not known.
    path.write_bytes(content + content)
    *found, _ = [record.numpy() for _, _, record in raw_records(source_of(path))]
    assert found == 2 * records


def test_a_file_that_changes_while_it_is_used_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a"
    write(path, [b"record"] * 9)
    source, content = source_of(path), path.read_bytes()
    for changed in (content[:-5], content + b"12345", content + content):
        path.write_bytes(changed)
        if changed == content + b"12345":  # What was there before is still read.
            assert [record.numpy() for _, _, record in raw_records(source)] == [b"record"] * 9
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match=str(path)):
                list(raw_records(source))
        with pytest.raises(ValueError, match=f"stay as it is while it is used. Received: {path}"):
            RecordIndex().runs(source)
