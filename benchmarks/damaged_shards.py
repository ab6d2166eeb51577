"""Damaged and foreign files among sound ones: whole records are used, what is lost is named."""

import collections
import contextlib
import gzip
import io
import os
import pathlib
import random
from collections.abc import Callable

import tensorflow as tf

from benchmarks import damage
from limoe_tf.data import record_stream, sources
from limoe_tf.data.record_gaps import read_gap
from limoe_tf.data.record_headers import FRAME_BYTES, HEADER_BYTES
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.records import raw_records

_RECORDS = 60
_TOGETHER = 10
_STARTS = 3
_FOREIGN = [
    b'{"count": 60}', b"PAR1" + bytes(400), b"<html>404</html>", b"", b"jpg,caption\n" * 50, None,
    gzip.compress(b"{}"), bytes(3000), b"\x1f\x8b" + bytes(40),
]  # fmt: skip


def measure(folder: str, *, count: int, seed: int, say: Callable[[str], None]) -> damage.Result:
    """Reads damaged files, ten and a sound one together, and begins their streams anywhere.

    Args:
      folder: where they are written.
      count: how many, a multiple of 10.
      seed: of the damage.
      say: function that shows a line.
    """
    counts, faults = collections.Counter(), []
    progress = damage.Progress("shards", count, say)
    for first in range(0, count, _TOGETHER):
        draw = random.Random(f"{seed} {first}")
        there = pathlib.Path(folder, f"{first:04}")
        there.mkdir()
        faults += _faults(_write(there, draw), there, draw, counts)
        progress(first + _TOGETHER)
    used = f"{counts['whole']:,} records"
    lost = f"{counts['gaps']:,} gaps of {counts['bytes']:,} bytes, {counts['foreign']} files"
    return damage.Result(count, used, lost, faults)


def _write(folder, draw):
    """Writes the files of a folder; returns the whole of each that has been damaged, by path."""
    wholes = {}
    for number in range(_TOGETHER + 1):
        path = folder / f"{number:02}.tfrecord"
        kind = draw.choice(["plain"] * 7 + ["gzip", "gzip", "foreign"]) if number else "plain"
        foreign = draw.choice(_FOREIGN)
        if kind == "foreign" and foreign is None:
            path.mkdir()
            continue
        if kind == "foreign":
            path.write_bytes(foreign)
            continue
        whole = wholes[str(path)] = _shard(draw)
        damaged = whole if kind == "plain" else gzip.compress(whole)
        path.write_bytes(_damaged(draw, damaged) if number else damaged)
    return wholes


def _shard(draw):
    records = [draw.randbytes(draw.randrange(400)) for _ in range(_RECORDS)]
    path = f"ram://damaged_shards/{draw.random()}"
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    tf.io.gfile.remove(path)
    return content


def _damaged(draw, data):
    # A cut within one of the headers, of 12 bytes each, is a kind of its own.
    if draw.random() < 0.2:
        ends = [end for _, end in _frames(data)][:-1]
        return data[: draw.choice(ends or [50]) + draw.randrange(1, HEADER_BYTES)]
    return damage.damage(draw, data)


def _frames(content):
    """Yields the bytes of each record with its frame, and where it ends."""
    place = 0
    while place + HEADER_BYTES < len(content):
        end = place + FRAME_BYTES + int.from_bytes(content[place : place + 8], "little")
        yield content[place:end], end
        place = end


def _faults(wholes, folder, draw, counts):
    """Yields a line for each promise that the files of a folder break."""
    source, told = _source(folder)
    found = collections.defaultdict(list)
    for path, _, record in raw_records(source):
        found[path.numpy().decode()].append(record.numpy())
    for path in sorted(str(path) for path in folder.iterdir()):
        if path in found:
            yield from _faults_of_file(path, wholes.get(path, b""), found[path], counts)
        elif path not in told:
            yield f"{path} is left out without a word"
        else:
            counts["foreign"] += 1
    yield from _faults_of_starts(source, sum(map(len, found.values())), draw)


def _source(folder):
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        source = sources.TfrecordSource(os.path.join(folder, "*"))
    return source, told.getvalue()


def _faults_of_file(path, whole, found, counts):
    damaged = pathlib.Path(path).read_bytes()
    gaps = [gap for gap in map(read_gap, found) if gap]
    records = [record for record in found if not read_gap(record)]
    counts["whole"] += len(records)
    counts["gaps"] += len(gaps)
    counts["bytes"] += sum(gap.end - gap.begin for gap in gaps)
    frames = [frame for frame, _ in _frames(whole)]
    if damaged.startswith(b"\x1f\x8b"):
        sound = damaged == gzip.compress(whole)
        if records != [frame[HEADER_BYTES:-4] for frame in frames[: len(records)]]:
            yield f"{path}: records that were not written"
        if len(records) < len(frames) and not gaps and not sound:
            yield f"{path}: the loss of {len(frames) - len(records)} records is not told"
        return
    wanted = [frame[HEADER_BYTES:-4] for frame in frames if frame in damaged]
    if collections.Counter(wanted) - collections.Counter(records):
        yield f"{path}: {len(records)} records of {len(wanted)} whole ones"
    read = sum(FRAME_BYTES + len(record) for record in records)
    if read + sum(gap.end - gap.begin for gap in gaps) != len(damaged):
        yield f"{path}: not every byte is a record's or named as lost"


def _faults_of_starts(source, total, draw):
    """Yields a line for each position at which the stream, begun there, is another one."""
    index, settings = RecordIndex(), {"seed": 1}
    if (count := sum(run.count for run in index.runs(source))) != total:
        yield f"{source.name}: {count} records indexed, {total} read"
    whole = list(record_stream.endless_records(source, **settings).take(2 * total))
    for first in (draw.randrange(1, 2 * total - 20) for _ in range(_STARTS)):
        begun = record_stream.endless_records(source, first=first, index=index, **settings)
        for one, another in zip(begun.take(20), whole[first:]):
            if any(a.numpy() != b.numpy() for a, b in zip(one, another)):
                yield f"{source.name}: begun at {first} it is another stream"
                break
