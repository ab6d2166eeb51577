"""Boxes of random crops."""

from collections.abc import Sequence

import tensorflow as tf


def check_crop_area(crop_area: Sequence[float]) -> tuple[float, float]:
    """Returns the smallest and the largest share of an area, in (0, 1].

    Raises:
      ValueError: if these are not two numbers in order.
    """
    area = tuple(crop_area)
    if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise ValueError(
            "`crop_area` must be two shares with 0 < smallest <= largest <= 1. "
            f"Received: crop_area={crop_area}"
        )
    return area


def draw_box(sides: tf.Tensor, seed: tf.Tensor, area: tuple[float, float]) -> tf.Tensor:
    """Draws a box <int32>[4], top, left, height, width.

    Args:
      sides: <int32>[2] height and width of the image.
      seed: <int64>[2].
      area: smallest and largest share of the image's area.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([sides, [3]], axis=0),
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        area_range=area,
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], extent[:2]], axis=0)


def cut(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Returns the part <uint8>[height, width, 3] of an image in a box of `draw_box`."""
    top, left, height, width = tf.unstack(box)
    return image[top : top + height, left : left + width]
