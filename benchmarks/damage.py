"""Ways to damage bytes, each a function of a random.Random and the bytes; and what parts report."""

import random
import time
from collections.abc import Callable
from typing import NamedTuple

_SECONDS_BETWEEN_LINES = 5
_LONGEST = 200


class Result(NamedTuple):
    """What came of some damaged inputs.

    Attributes:
      inputs: how many there were.
      used: what of them was used, in words.
      lost: what was not, in words.
      faults: a line for each broken promise.
    """

    inputs: int
    used: str
    lost: str
    faults: list[str]


class Progress:
    """Shows a line with the time left now and then.

    Args:
      what: is done.
      total: how many there are.
      say: function that shows a line.
    """

    def __init__(self, what: str, total: int, say: Callable[[str], None]):
        self._what, self._total, self._say = what, total, say
        self._start = self._said = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if done and now - self._said > _SECONDS_BETWEEN_LINES:
            self._said = now
            left = (now - self._start) / done * max(self._total - done, 0)
            left = f"{left // 60:.0f}:{left % 60:02.0f} left"
            self._say(f"{self._what}: {done:,} of {self._total:,}, {left}")


def flip(draw: random.Random, data: bytes) -> bytes:
    """Changes one, some or many bits."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 3, 40])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_in_front(draw: random.Random, data: bytes) -> bytes:
    """Changes a bit of the first bytes, where headers and lengths are."""
    return flip(draw, data[:60]) + data[60:]


def cut(draw: random.Random, data: bytes) -> bytes:
    """Leaves the end out; often only the last byte."""
    return data[: draw.choice([len(data) - 1, draw.randrange(1, len(data))])]


def cut_in_front(draw: random.Random, data: bytes) -> bytes:
    """Leaves the beginning out."""
    return data[draw.randrange(1, min(_LONGEST, len(data))) :]


def leave_out(draw: random.Random, data: bytes) -> bytes:
    """Leaves some bytes out."""
    place = draw.randrange(len(data))
    return data[:place] + data[place + draw.randrange(1, _LONGEST) :] or b"\0"


def put_in(draw: random.Random, data: bytes) -> bytes:
    """Puts some bytes in."""
    place = draw.randrange(len(data))
    return data[:place] + draw.randbytes(draw.randrange(1, _LONGEST)) + data[place:]


def overwrite(draw: random.Random, data: bytes) -> bytes:
    """Writes other bytes, or zeros, over some."""
    place = draw.randrange(len(data))
    size = min(draw.randrange(1, _LONGEST), len(data) - place)
    middle = draw.choice([bytes(size), b"\xff" * size, draw.randbytes(size)])
    return data[:place] + middle + data[place + size :]


def swap(draw: random.Random, data: bytes) -> bytes:
    """Puts what stands in front behind the rest."""
    place = draw.randrange(len(data))
    return data[place:] + data[:place]


def repeat(draw: random.Random, data: bytes) -> bytes:
    """Has some bytes twice."""
    place = draw.randrange(len(data))
    return data[: place + draw.randrange(1, _LONGEST)] + data[place:]


WAYS = [flip, flip_in_front, cut, cut_in_front, leave_out, put_in, overwrite, swap, repeat]


def damage(draw: random.Random, data: bytes) -> bytes:
    """Damages bytes in one of these ways."""
    return draw.choice(WAYS)(draw, data)
