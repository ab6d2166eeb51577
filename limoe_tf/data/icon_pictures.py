"""Pictures of SVG icons, drawn by several processes in the order of their coming."""

import collections
import importlib.util
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from limoe_tf.data import processes

SIZE = 64
# Drawn from an SVG without content: what every icon looks like of which nothing is visible.
_NOTHING = f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIZE}" height="{SIZE}"></svg>'
_BLOCK = 64
EMPTY = "empty"

Item = TypeVar("Item")


def require_resvg() -> None:
    """Raises an ImportError that says what to install, if what draws icons is missing."""
    if importlib.util.find_spec("resvg_py") is None:
        raise ImportError(
            'Drawing icons needs resvg-py: pip install "limoe_tf[icons]". Received: no resvg_py'
        )


def svg_of(body: str, *, left: float, top: float, width: float, height: float) -> str:
    """Returns the SVG of an icon's body: its whole box, in the middle of `SIZE` by `SIZE` pixels.

    Args:
      body: elements of an SVG, as Iconify stores them.
      left: of the box.
      top: of the box.
      width: of the box.
      height: of the box.
    """
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def drawn(
    items: Iterable[Item], svg: Callable[[Item], str], *, num_processes: int | None = None
) -> Iterator[tuple[Item, bytes | str]]:
    """Yields each item with its picture, in order, whatever the number of processes.

    Args:
      items: what is to be drawn; few are held at a time.
      svg: returns the SVG text of an item.
      num_processes: that draw at the same time; None takes the number of cores.

    Yields:
      The item, and the bytes of a PNG <uint8>[64, 64, 4]; or instead of these `EMPTY`, if no pixel
      is visible, or the text of the error.

    Raises:
      ImportError: if resvg-py is not installed.
      RuntimeError: if a process ends early.
    """
    require_resvg()
    items, waiting = iter(items), collections.deque()

    def svgs():
        yield [_NOTHING]
        while block := list(itertools.islice(items, _BLOCK)):
            waiting.append(block)
            yield [svg(item) for item in block]

    pictures = processes.answers(draw, svgs(), num_processes=num_processes or os.cpu_count())
    (nothing,) = next(pictures)
    for of_block in pictures:
        for item, picture in zip(waiting.popleft(), of_block):
            yield item, EMPTY if picture == nothing else picture


def draw(svgs: list[str]) -> list[bytes | str]:
    """Returns the PNG of each SVG, or why there is none; fonts of the system are not used."""
    return [_png(svg) for svg in svgs]


def _png(svg):
    import resvg_py

    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    except ValueError as error:
        return str(error) or type(error).__name__
