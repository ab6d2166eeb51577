"""Draws a sheet of scenes of `endless_scenes` with captions, and measures what drawing them costs.

    .venv/bin/python -m benchmarks.scenes [--picture=docs/images/endless_scenes.png] [--scenes=2000]

The time is that of a processor, of one process, for a scene and its PNG file.
"""

import argparse
import os
import pathlib
import textwrap
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib.figure

from limoe_tf.data import endless
from limoe_tf.data.scenes import examples

_ROWS, _COLUMNS = 4, 6


def draw_sheet(path: str | os.PathLike, *, first: int = 0) -> None:
    """Writes a picture of 24 scenes of "test", each with one of its captions.

    Args:
      path: the PNG file.
      first: number of the first scene.
    """
    figure = matplotlib.figure.Figure(figsize=(9, 7.4), layout="constrained")
    for place, axes in enumerate(figure.subplots(_ROWS, _COLUMNS).flat):
        example = endless.render("test", first + place)
        axes.imshow(example.image, interpolation="nearest")
        axes.set_axis_off()
        caption = example.captions[place % len(example.captions)]
        axes.set_title(textwrap.fill(caption, 26), fontsize=6.5)
    # Without the program's version the same scenes are the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})


def measure(scenes: int) -> dict[str, float]:
    """Returns CPU milliseconds and stored bytes of a scene, after the tables have been made.

    Args:
      scenes: how many are drawn before the clock starts, and as many after.
    """
    for index in range(scenes):
        examples.record("train", scenes + index)
    start, size = time.process_time(), 0
    for index in range(scenes):
        record = examples.record("train", index)
        size += len(record["image"]) + sum(len(caption) for caption in record["captions"])
    seconds = time.process_time() - start
    return {"milliseconds": 1000 * seconds / scenes, "bytes": size / scenes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=pathlib.Path, help="where the sheet is written")
    parser.add_argument("--scenes", type=int, default=2000, help="scenes that are timed")
    options = parser.parse_args()
    if options.picture:
        draw_sheet(options.picture)
    found = measure(options.scenes)
    print(f"{found['milliseconds']:.2f} ms of CPU and {found['bytes']:,.0f} bytes a scene")


if __name__ == "__main__":
    main()
