import gzip

import pytest

from limoe_tf.data.file_kinds import HEAD_BYTES, kind_of


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"", "empty"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (b' \n{"a": 1}', "JSON"),
        ('["caf\u00e9", ' * 400, "JSON"),
        (b"<!doctype html>", "HTML or XML"),
        (b"name,caption\n", "text"),
        ("\u00e9" * HEAD_BYTES, "text"),
        (b"caf\xe9 au lait", None),
        (b"\x00\x01\x02", None),
        (b"  ", None),
        (b"PK\x03\x04" + bytes(20), "zip"),
        (b"a.jpg".ljust(257, b"\x00") + b"ustar  \x00", "tar"),
    ],
)
def test_the_kind_of_a_file_is_told_from_its_first_bytes(content, kind):
    content = content.encode() if isinstance(content, str) else content
    # Also where the last character is cut in two.
    for end in (HEAD_BYTES, HEAD_BYTES - 1):
        assert kind_of(content[:end]) == kind
