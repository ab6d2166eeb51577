"""What a file is that is not what it should be, told from its first bytes."""

# Bytes to read of a file for `kind_of`.
HEAD_BYTES = 1024
_TAR_PLACE = 257

_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress (.Z)",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x93NUMPY": "NumPy",
    b"\x89HDF": "HDF5",
    b"SQLite format 3": "SQLite",
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "RIFF",
    b"%PDF": "PDF",
    b"\x7fELF": "ELF",
}
TEXTS = ("text", "JSON", "HTML or XML")
COMPRESSIONS = ("gzip", "bzip2", "xz", "zstd", "lz4", "compress (.Z)")


def kind_of(head: bytes) -> str | None:
    """Returns the name of a file's kind, or None if it is not known.

    Args:
      head: the first `HEAD_BYTES` of the file, or all of a shorter one.
    """
    if not head:
        return "empty"
    if head[_TAR_PLACE : _TAR_PLACE + 5] == b"ustar":
        return "tar"
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            return kind
    return _kind_of_text(head)


def _kind_of_text(head):
    try:
        text = head.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        # The last character of a head may be cut in two.
        if error.start < len(head) - 3:
            return None
        text = head[: error.start].decode("utf-8").strip()
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return None
    if text[0] in "{[":
        return "JSON"
    return "HTML or XML" if text[0] == "<" else "text"
