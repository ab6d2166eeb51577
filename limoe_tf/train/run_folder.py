"""A folder to write to: that it can be written to, and that one process at a time trains in it."""

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import tensorflow as tf

from limoe_tf import checks

LOCK_FILE = "train.lock"
SECONDS_BETWEEN_BEATS = 20


def check_writable(folder: str | os.PathLike) -> None:
    """Makes a folder, writes a file there and reads it, so that a run fails before it has begun.

    Raises:
      ValueError: if that is not possible.
    """
    folder = checks.plain_path("directory", folder)
    probe, text = os.path.join(folder, ".writable"), uuid.uuid4().hex
    try:
        tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(probe, "w") as file:
            file.write(text)
        with tf.io.gfile.GFile(probe) as file:
            found = file.read()
        tf.io.gfile.remove(probe)
        reason = None if found == text else f"{text} was written and {found!r} read"
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        reason = getattr(error, "message", str(error))
    if reason:
        raise ValueError(
            "`directory` must be a place for files that can be written to, and read again. "
            f"Received: directory={folder!r} ({reason})"
        )


@contextlib.contextmanager
def held(
    folder: str | os.PathLike, *, seconds_between_beats: float = SECONDS_BETWEEN_BEATS
) -> Iterator[None]:
    """Holds a folder: no other process can hold it meanwhile. It must exist.

    A folder of this machine is locked by the operating system, which gives it free when the process
    ends, however it ends. In a bucket there is no such lock: there the holder writes a new mark
    into the file every so many seconds. Who comes later and finds a mark waits for three times as
    long, and is refused if it changes. So a holder that was killed delays the next by a minute,
    and of two that come within the same second or two both may pass.

    Args:
      folder: to be held.
      seconds_between_beats: how often a new mark is written in a bucket.

    Raises:
      ValueError: if another process holds it.
    """
    path = os.path.join(os.fspath(folder), LOCK_FILE)
    if "://" in path:
        with _marked(path, seconds_between_beats):
            yield
    else:
        with _locked(path):
            yield


@contextlib.contextmanager
def _locked(path):
    # Opened for appending, which leaves the holder's name there until the lock is ours.
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _refusal(path, file.read()) from error
        except OSError as error:  # Some network file systems have no locks.
            print(f"{path} cannot be locked ({error}): a second run is not noticed.", flush=True)
        file.truncate(0)
        file.write(_name())
        file.flush()
        yield


@contextlib.contextmanager
def _marked(path, seconds):
    before = _read(path)
    if before is not None:
        print(f"{path} names {before!r}; waiting whether it is still there ...", flush=True)
        time.sleep(3 * seconds)
        if _read(path) not in (before, None):
            raise _refusal(path, before)
    name, ended = f"{_name()} {uuid.uuid4().hex}", threading.Event()
    _write(path, name, 0)

    def beat():
        count = 0
        while not ended.wait(seconds):
            count += 1
            _write(path, name, count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(tf.errors.NotFoundError):
            tf.io.gfile.remove(path)


def _name():
    return f"process {os.getpid()} on {socket.gethostname()}"


def _refusal(path, holder):
    return ValueError(
        "One process at a time may train in a folder. "
        f"Received: {os.path.dirname(path)!r}, held by {holder.strip() or 'another one'}"
    )


def _read(path):
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read().decode("utf-8", errors="replace")
    except tf.errors.NotFoundError:
        return None


def _write(path, name, count):
    try:
        with tf.io.gfile.GFile(path, "w") as file:
            file.write(f"{name}, mark {count}")
    except tf.errors.OpError as error:
        # The run itself goes on: it will tell by itself if it cannot write.
        print(f"{path} could not be written ({error.message})", flush=True)
