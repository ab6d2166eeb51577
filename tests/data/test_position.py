"""The stream of records: its order, begun at any position, at the cost of a window."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, record_heads, record_stream, sources
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.position import shuffled_windows
from limoe_tf.data.record_gaps import read_gap
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import RecordFile, raw_records
from tests.data.test_batches import assert_same, numbers, training
from tests.data.test_hosts import parts_of
from tests.data.test_sources import PairsOfSources  # noqa: F401 (makes `pairs_of_sources` known)
from tests.shared.record_files import example, jpeg, write, write_pairs

# More files than are open at once, with empty ones, and blocks of 16 and marks of 64 that are full,
# one short or one over.
COUNTS = [0, 1, 5, 15, 16, 17, 31, 32, 33, 3, 63, 64, 65, 2, 0, 128, 130, 4, 20, 7, 9]
TOTAL = sum(COUNTS)


def write_files(folder, counts, compression=""):
    """Writes files of records such as "7/12", number 12 of file 7; returns the paths."""
    return [
        write(folder / f"{file:02}", [f"{file}/{i}".encode() for i in range(n)], compression)
        for file, n in enumerate(counts)
    ]


def source_of(files):
    return SimpleNamespace(name="files", files=record_heads.look(files, name="files"))


@pytest.fixture(scope="module", params=["", "GZIP"], ids=["plain", "gzip"])
def source(request, tmp_path_factory):
    paths = write_files(tmp_path_factory.mktemp("files"), COUNTS, request.param)
    return source_of([RecordFile(path, 0, -1) for path in paths])


def read(source, count, *, first=0, index=None):
    """Returns records from a position on; their places must be those written in them."""
    stream = record_stream.endless_records(source, seed=3, first=first, index=index).take(count)
    found = []
    for path, number, record in stream.as_numpy_iterator():
        assert record.decode() == f"{int(path[-2:])}/{number}"
        found.append(record.decode())
    return found


def interleaved(runs):
    """Returns the records of runs by a loop: groups of 16 files interleaved by blocks of 16."""
    found = []
    for start in range(0, len(runs), 16):
        left = [
            [f"{int(run.path[-2:])}/{run.first + i}" for i in range(run.count)]
            for run in runs[start : start + 16]
        ]
        while any(left):
            for records in left:
                found += records[:16]
                del records[:16]
    return found


def expected_epoch(source, epoch):
    order = record_stream.permutation(len(COUNTS), 3, tf.constant(epoch, tf.int64)).numpy()
    return interleaved([source.files[number]._replace(count=COUNTS[number]) for number in order])


def test_groups_of_files_are_read_in_turns_and_each_epoch_in_another_order(source):
    expected = [record for epoch in range(3) for record in expected_epoch(source, epoch)]
    assert read(source, 3 * TOTAL) == expected
    for epoch in range(3):
        assert len(set(expected[epoch * TOTAL :][:TOTAL])) == TOTAL
    assert expected[:TOTAL] != expected[TOTAL : 2 * TOTAL]


def test_begun_anywhere_it_is_the_tail_of_the_stream(source):
    whole = read(source, 3 * TOTAL)
    index = RecordIndex()
    for first in [0, TOTAL - 1, TOTAL, TOTAL + 1, *range(23, 2 * TOTAL, 223)]:
        assert read(source, 60, first=first, index=index) == whole[first : first + 60], first
    # Through the end of an epoch, without an index at hand.
    assert read(source, TOTAL, first=1000) == whole[1000 : 1000 + TOTAL]


def test_what_is_opened_at_each_place_of_an_epoch_is_the_rest_of_the_epoch():
    runs = [RecordFile(f"{file:02}", file, count) for file, count in enumerate(COUNTS)]
    whole = interleaved(runs)
    assert len(set(whole)) == TOTAL
    for place in range(TOTAL):
        opened, passed, end = record_stream._opened(runs, place)
        assert interleaved(opened)[passed:] + interleaved(runs[end:]) == whole[place:]
        assert all(run.count for run in opened) and passed < 16 * 16


def test_runs_within_files_can_be_begun_anywhere(tmp_path):
    paths = write_files(tmp_path, [90, 150])
    runs = [RecordFile(paths[0], 60, 30), RecordFile(paths[1], 0, 3), RecordFile(paths[1], 70, 70)]
    source, index = source_of(runs), RecordIndex()
    whole = read(source, 2 * 103 + 20)
    assert sorted(whole[:103]) == sorted(
        [f"0/{i}" for i in range(60, 90)] + [f"1/{i}" for i in [*range(3), *range(70, 140)]]
    )
    for first in (1, 33, 50, 70, 102, 103, 150):
        assert read(source, 20, first=first, index=index) == whole[first : first + 20]


def test_a_part_of_a_tfds_split_can_be_begun_anywhere(tmp_path):
    source = sources.TfdsSource(
        "pairs_of_sources", split="train[25%:75%]", captions="title", data_dir=str(tmp_path)
    )
    assert len(list(raw_records(source))) == 4

    def titles(first):
        stream = record_stream.endless_records(source, seed=0, first=first).take(12 - first)
        return [source.parse(record)["captions"].numpy()[0] for _, _, record in stream]

    whole = titles(0)
    assert len(set(whole)) == 4
    for first in (1, 3, 6, 11):
        assert titles(first) == whole[first:]


RECORD_BYTES = 40
FRAME_BYTES = RECORD_BYTES + 16


def damage(path, intact):
    """Changes the length of each record of a file whose number is not in a set."""
    content = bytearray(pathlib.Path(path).read_bytes())
    for number in range(len(content) // FRAME_BYTES):
        if number not in intact:
            content[number * FRAME_BYTES] ^= 1
    pathlib.Path(path).write_bytes(content)


@pytest.mark.parametrize("step", [10, 1_000_000])
def test_a_start_reads_a_window_and_a_little_more_whatever_the_step(tmp_path, step):
    counts, window, batch_size = 40 * [500], 512, 128
    paths = [
        write(tmp_path / f"{file:02}", [f"{file}/{i}".ljust(RECORD_BYTES) for i in range(n)])
        for file, n in enumerate(counts)
    ]
    source, index = source_of([RecordFile(path, 0, -1) for path in paths]), RecordIndex()

    def first_window():
        first = step * batch_size // window
        windows = shuffled_windows(source, size=window, seed=3, first=first, index=index)
        _, _, records = next(iter(windows))
        return [values.numpy() for values in records]

    found = first_window()
    num_intact = 0
    for path in paths:
        wanted = found[1][found[0] == path.encode()]
        # From the mark before the block at which the round begins.
        intact = (
            set(range(wanted.min() // 16 * 16 // 64 * 64, wanted.max() + 1)) if len(wanted) else ()
        )
        num_intact += len(intact)
        damage(path, intact)
    for before, after in zip(found, first_window(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert num_intact < window + 16 * 64
    # Nothing else can be read, and had anything before been read, all numbers would be others.
    stream = record_stream.endless_records(source, seed=3, index=index).take(200)
    assert any(read_gap(record) for *_, record in stream.as_numpy_iterator())


def test_hosts_that_begin_anywhere_share_the_batches_of_one(tmp_path):
    for file in range(20):
        write_pairs(tmp_path / f"{file:02}", file, first=10 * file)
    source = sources.TfrecordSource(str(tmp_path / "*"))
    expected = list(training(source).take(30))
    for hosts in (1, 4):
        found = parts_of(source, hosts=hosts, replicas=4, num_batches=3, start_step=27)
        assert_same(expected[27:], found)


def test_a_bad_record_is_named_after_a_late_start(tmp_path):
    records = [example(jpg=jpeg(i), caption=[f"image {i} caption 0".encode()]) for i in range(100)]
    records[70] = b"no example"
    source = sources.TfrecordSource(write(tmp_path / "pairs", records))
    bad_records = BadRecords()
    # Batch 8 of 8 begins in the window of the records 60 to 79.
    dataset = batches.training_batches(
        source, vocabulary=numbers, batch_size=8, image_size=12, seed=5, start_step=8,
        shuffle_window=20, bad_records=bad_records,
    )  # fmt: skip
    list(dataset.take(1))
    assert f"{tmp_path}/pairs record 70" in bad_records.report()


@pytest.mark.parametrize("compression", ["", "GZIP"])
@pytest.mark.parametrize("first", [0, 100])
def test_a_file_that_becomes_shorter_is_an_error(tmp_path, compression, first):
    (path,) = write_files(tmp_path, [150], compression)
    source, index = source_of([RecordFile(path, 0, -1)]), RecordIndex()
    assert len(read(source, 150 - first, first=first, index=index)) == 150 - first
    write_files(tmp_path, [90], compression)
    if compression and not first:  # Read to its end, where what is lacking is a gap.
        stream = record_stream.endless_records(source, seed=3).take(91)
        *_, (_, number, gap) = stream.as_numpy_iterator()
        assert number == 90 and read_gap(gap).reason.startswith("compressed file is cut off")
        return
    stream = record_stream.endless_records(source, seed=3, first=first, index=index)
    with pytest.raises(tf.errors.InvalidArgumentError, match=str(path)):
        list(stream.take(150 - first))
