"""Entries of published files of annotations: objects of JSON, each sound or with a Fault."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data.captions import is_blank
from limoe_tf.downstream.left_out import Fault, LeftOut

Entry = dict[str, Any]
_INT64 = range(-(2**63), 2**63)


def read_json(path: str | os.PathLike, key: str) -> Iterator[tuple[str, Any]]:
    """Reads the list that a JSON file has under a key.

    Bytes that are not UTF-8 are kept in the texts, where `text` finds them.

    Args:
      path: the file, on this machine or in a bucket.
      key: of the object that the file holds.

    Returns:
      Iterator of (place in words, value).

    Raises:
      ValueError: if there is no such file, or no such list in it.
    """
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"A file must be JSON. Received: {path} ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get(key), list):
        keys = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"A file must hold a list of {key!r}. Received: {path}, with {keys}")
    return ((f"{key}[{number}]", value) for number, value in enumerate(found[key]))


def read_json_lines(path: str | os.PathLike, left_out: LeftOut) -> Iterator[tuple[str, Any]]:
    """Reads a file with a JSON value on each line; see `read_json`. Blank lines do not count.

    Args:
      path: the file.
      left_out: LeftOut, which counts lines that are no JSON.

    Returns:
      Iterator of (place in words, value).

    Raises:
      ValueError: if there is no such file, or it is no text.
    """
    # Not `splitlines`: texts may hold other characters at which it would split.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            left_out.note("no JSON", f"line {number}")
            continue
        yield f"line {number}", value


def _read(path):
    with tf.io.gfile.GFile(checks.existing_file("path", path), "rb") as file:
        content = file.read()
    encoding = json.detect_encoding(content)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    try:
        return content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"A file must be UTF-8. Received: {path} ({error})") from error


def by_key(
    entries: Iterable[tuple[str, Any]],
    read: Callable[[Entry], tuple[Any, Any] | None],
    left_out: LeftOut,
) -> dict[Any, Any]:
    """Reads each entry, and leaves out those with a Fault and those whose key has been before.

    Args:
      entries: (place in words, value).
      read: function of an entry to its key and what is made of it, or to None if it is not wanted.
      left_out: LeftOut.

    Returns:
      dict in the order of the entries.
    """
    found = {}
    for place, entry in entries:
        try:
            if not isinstance(entry, dict):
                raise Fault("no JSON object")
            item = read(entry)
            if item is None:
                continue
            if item[0] in found:
                raise Fault("comes twice", f"{place}, {item[0]}")
            found[item[0]] = item[1]
        except Fault as fault:
            left_out.note(fault.reason, fault.example or place)
    return found


def value(entry: Entry, key: str) -> Any:
    """Returns what an entry has under a key; raises Fault if it lacks it."""
    if key not in entry:
        raise Fault(f"no `{key}`")
    return entry[key]


def text(entry: Entry, key: str, *, may_be_blank: bool = False) -> str:
    """Returns the text of an entry; raises Fault if it is none, blank or not UTF-8."""
    found = value(entry, key)
    if not isinstance(found, str):
        raise Fault(f"`{key}` is no text")
    try:
        found.encode("utf-8")
    except UnicodeEncodeError:
        raise Fault(f"`{key}` is not UTF-8") from None
    if not may_be_blank and is_blank(found):
        raise Fault(f"`{key}` is blank")
    return found


def integer(entry: Entry, key: str) -> int:
    """Returns the integer of an entry; raises Fault if it is none, or has more than 64 bits."""
    found = value(entry, key)
    if type(found) is not int or found not in _INT64:
        raise Fault(f"`{key}` is no integer")
    return found


def objects(entry: Entry, key: str) -> list[Entry]:
    """Returns the list of objects of an entry; raises Fault if it is none, or empty."""
    found = value(entry, key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Fault(f"`{key}` is no list of objects")
    if not found:
        raise Fault(f"`{key}` is empty")
    return found
