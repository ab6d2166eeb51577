"""Draws icons as a process of its own, which needs neither this package nor TensorFlow.

Reads pickled lists of SVG texts from its input, and writes for each a pickled list: bytes of a PNG,
or the text of the error.
"""

import pickle
import sys

import resvg_py


def draw(svg: str) -> bytes | str:
    """Returns the PNG of an SVG, or why there is none; fonts of the system are not used."""
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    except ValueError as error:
        return str(error) or type(error).__name__


def main():
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            svgs = pickle.load(requests)
        except EOFError:
            return
        pickle.dump([draw(svg) for svg in svgs], replies)
        replies.flush()


if __name__ == "__main__":
    main()
