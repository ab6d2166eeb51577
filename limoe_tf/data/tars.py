"""The files of a tar, one after the other, in bounded memory whatever the tar claims."""

import tarfile
from collections.abc import Callable, Iterator, Set
from typing import NamedTuple

from limoe_tf.data import file_kinds

# Images are read as a whole. No photograph has so many bytes.
MAX_FILE_BYTES = 256 << 20
_BLOCK_BYTES = 512
_READ_BYTES = 8 << 20
# What tarfile raises for headers that are damaged.
_DAMAGE = (tarfile.TarError, ArithmeticError, LookupError, RecursionError, ValueError)


class Member(NamedTuple):
    """A file of a sample.

    Attributes:
      name: its name in the tar.
      key: the name up to the first dot behind the last slash.
      suffix: what follows the dot, in lower case.
      content: bytes, empty if nobody asked for files of this suffix.
      fault: why there is no content, or None.
    """

    name: str
    key: str
    suffix: str
    content: bytes
    fault: str | None


class Tar:
    """A tar that is read from its beginning to its end, once.

    Args:
      file: the open file.
      size: its bytes.

    Attributes:
      fault: why it could not be read to its end, or None; known when all members are read.
    """

    def __init__(self, file, size: int):
        self._file = _Bounded(file, size)
        self.fault = None

    def members(
        self, suffixes: Set[str], leave_out: Callable[[str, str], None]
    ) -> Iterator[Member]:
        """Yields the files that have a key and a suffix.

        Args:
          suffixes: of the files whose content is read.
          leave_out: called with the name and the reason for each other entry of the tar.
        """
        begun = False
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                begun = True
                for member in _forward(tar):
                    key, suffix = _split(member.name)
                    if not member.isreg() or member.issparse():
                        leave_out(member.name, _kind(member))
                    elif not suffix:
                        leave_out(member.name, "name without a key and a suffix")
                    else:
                        wanted = suffix in suffixes
                        content, fault = self._content(member) if wanted else (b"", None)
                        yield Member(member.name, key, suffix, content, fault)
                self._check_end(tar.offset)
        except _DAMAGE as error:
            self.fault = str(error) or type(error).__name__
            if not begun:
                self.fault = self._why_no_tar() or self.fault

    def _content(self, member):
        if member.size > MAX_FILE_BYTES:
            return b"", f"larger than {MAX_FILE_BYTES >> 20} MiB"
        self._file.seek(member.offset_data)
        content = self._file.read(member.size)
        return content, None if len(content) == member.size else "cut off"

    def _why_no_tar(self):
        self._file.seek(0)
        kind = file_kinds.kind_of(self._file.read(file_kinds.HEAD_BYTES))
        if kind in file_kinds.COMPRESSIONS:
            return f"compressed with {kind}; it must be decompressed first"
        return kind and f"{kind}, no tar" if kind != "empty" else "empty file"

    def _check_end(self, offset):
        """Raises a ReadError if tarfile stopped before the end: it ignores damaged headers."""
        self._file.seek(offset)
        if any(block := self._file.read(_BLOCK_BYTES)) or len(block) < _BLOCK_BYTES:
            raise tarfile.ReadError(f"cut off, or damaged header, at byte {offset:,}")
        while rest := self._file.read(_READ_BYTES):
            if rest.count(0) != len(rest):
                raise tarfile.ReadError(f"more data after the end mark at byte {offset:,}")


class _Bounded:
    """A file for tarfile that reads no more than there is, whatever a header claims."""

    def __init__(self, file, size):
        self._file, self._size, self._place = file, size, 0

    def tell(self):
        return self._place

    def seek(self, place):
        if place < 0:
            raise tarfile.ReadError(f"damaged header that points to byte {place:,}")
        self._place = place

    def read(self, count):
        if count > MAX_FILE_BYTES:
            raise tarfile.ReadError(f"damaged header of {count:,} bytes, at byte {self._place:,}")
        count = min(count, self._size - self._place)
        if count <= 0:
            return b""
        self._file.seek(self._place)
        content = self._file.read(count)
        self._place += len(content)
        return content


def _forward(tar):
    """Yields the members of a tarfile; a damaged one must not lead back to what was read."""
    behind = -1
    while (member := tar.next()) is not None:
        if tar.offset <= behind:
            raise tarfile.ReadError(f"damaged header, at byte {behind:,}")
        behind = tar.offset
        tar.members = []  # It would keep them all.
        yield member


def _split(name):
    """Returns the key and the suffix of a name; both empty if it has not both."""
    folder, slash, name = name.rpartition("/")
    stem, _, suffix = name.partition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem and suffix else ("", "")


def _kind(member):
    if member.isdir():
        return "folder"
    if member.issparse():
        return "sparse file"
    return "link" if member.issym() or member.islnk() else "neither file, folder nor link"
