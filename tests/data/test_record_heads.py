"""What is found among TFRecord files: which files are none is told at once, the others are used."""

import gzip
import json

import pytest

from limoe_tf.data import sources
from limoe_tf.data.records import raw_records
from tests.shared.record_files import write

FOREIGN = {
    "a_stats.json": (json.dumps({"count": 3}).encode(), "JSON"),
    "b.parquet": (b"PAR1" + bytes(500) + b"PAR1", "Parquet"),
    "c.csv": (b"jpg,caption\n" * 100, "text"),
    "d.html": (b"<html>not found</html>", "HTML or XML"),
    "e.tar": (b"x.jpg".ljust(257, b"\0") + b"ustar\0" + bytes(900), "tar"),
    "f.json.gz": (gzip.compress(b"{}" * 50), "gzip, but not of TFRecords"),
    "g.gz": (b"\x1f\x8b" + bytes(50), "damaged gzip"),
    "h.zst": (b"\x28\xb5\x2f\xfd" + bytes(range(200, 250)), "zstd"),
    "i": (bytes(5000), "unknown kind"),
    "j": (b"\x07", "unknown kind"),
}


def test_what_is_no_tfrecord_is_left_out_and_named(tmp_path, capsys):
    for name, (content, _) in FOREIGN.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    plain = write(tmp_path / "p", [b"1", b"2"])
    packed = write(tmp_path / "q.gz", [b"3"], "GZIP")
    (tmp_path / "r").write_bytes(b"")
    write(tmp_path / "s.gz", [], "GZIP")
    source = sources.TfrecordSource(str(tmp_path / "*"))
    assert [record.numpy() for _, _, record in raw_records(source)] == [b"1", b"2", b"3"]
    compressions = {file.path: file.compression for file in source.files}
    assert compressions[plain] == "" and compressions[packed] == "GZIP"
    foreign, empty = capsys.readouterr().out.splitlines()
    assert foreign.startswith(f"Left out of {tmp_path}/*, no TFRecords: ")
    for name, (_, kind) in {**FOREIGN, "folder": (b"", "folder")}.items():
        listed = next(part for part in foreign.split("; ") if part.endswith(f"({kind})"))
        assert str(tmp_path / name) in listed
    assert empty == f"Without a record in {tmp_path}/*: {tmp_path}/r, {tmp_path}/s.gz (empty)"


def test_the_name_of_a_file_does_not_say_whether_it_is_compressed(tmp_path):
    write(tmp_path / "a.tfrecord", [b"1"], "GZIP")
    write(tmp_path / "b.tfrecord.gz", [b"2"])
    source = sources.TfrecordSource(str(tmp_path / "*"))
    assert [record.numpy() for _, _, record in raw_records(source)] == [b"1", b"2"]


def test_a_file_damaged_at_its_head_is_used_from_the_first_whole_record_on(tmp_path):
    path = tmp_path / "a"
    write(path, [bytes(100_000), b"2", b"3"])
    content = path.read_bytes()
    for damaged in (b"\x01" + content[1:], content[50:]):
        path.write_bytes(damaged)
        _, *rest = raw_records(sources.TfrecordSource(str(path)))
        assert [record.numpy() for _, _, record in rest] == [b"2", b"3"]


def test_files_of_which_none_is_a_tfrecord_are_an_error(tmp_path):
    for name, (content, _) in FOREIGN.items():
        (tmp_path / name).write_bytes(content)
    message = rf"The files of .* must be TFRecords. Received: .*{tmp_path}/a_stats.json \(JSON\)"
    with pytest.raises(ValueError, match=message):
        sources.TfrecordSource(str(tmp_path / "*"))


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "a", [b"1"])
    (tmp_path / "b").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=f"must be readable. Received: {tmp_path}/b"):
        sources.TfrecordSource(str(tmp_path / "*"))
