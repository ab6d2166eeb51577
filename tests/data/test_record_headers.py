"""Headers of records: which are sound, and where the next one stands."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import record_headers
from limoe_tf.data.record_headers import HEADER
from tests.shared.record_files import write


def test_headers_that_tensorflow_wrote_are_sound_and_those_with_a_changed_bit_are_not(tmp_path):
    lengths = [0, 1, 255, 256, 65_537]
    with open(write(tmp_path / "a", [bytes(n) for n in lengths]), "rb") as file:
        content = file.read()
    begins = np.cumsum([0] + [n + 16 for n in lengths])[:-1]
    headers = b"".join(content[begin : begin + 12] for begin in begins)
    assert record_headers.are_sound(np.frombuffer(headers, HEADER)).all()
    for bit in range(96):
        changed = bytearray(headers)
        changed[bit // 8] ^= 1 << bit % 8
        sound = record_headers.are_sound(np.frombuffer(bytes(changed), HEADER))
        assert sound.tolist() == [False, True, True, True, True]


def test_the_next_header_of_a_record_that_fits_is_found(tmp_path, monkeypatch):
    # In chunks of 100 places, so that headers stand across their ends.
    monkeypatch.setattr(record_headers, "_CHUNK_BYTES", 100)
    sizes = [300, 0, 70_000, 5]
    path = write(tmp_path / "a", [b"\xff" * n for n in sizes])
    begins = np.cumsum([0] + [n + 16 for n in sizes]).tolist()
    size = begins.pop()
    for first in (0, 1, 315, 316, 317, 332, 333):
        wanted = next((begin for begin in begins if begin >= first), size)
        assert int(record_headers.find(path, first, size)) == wanted
    # The last record does not fit into a shorter file, and further off than `within` is not looked.
    shorter = tmp_path / "b"
    shorter.write_bytes((tmp_path / "a").read_bytes()[:-1])
    assert int(record_headers.find(str(shorter), begins[-1], size - 1)) == size - 1
    assert int(record_headers.find(path, 1, size, within=315)) == size
    assert int(record_headers.find(path, 1, size, within=316)) == 316


def test_bytes_are_read_from_anywhere_and_a_file_of_another_size_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(50)))
    path = str(tmp_path / "a")
    for begin, count in ((0, 50), (0, 1), (49, 1), (20, 7)):
        read = record_headers.read_bytes(path, begin, count, 50)
        assert read.numpy() == bytes(range(begin, begin + count))
    for size in (49, 51):
        with pytest.raises(tf.errors.InvalidArgumentError, match=path):
            record_headers.read_bytes(path, 20, 7, size)
