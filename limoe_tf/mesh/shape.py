"""Parses and checks shapes of meshes and layout rules, in Mesh TensorFlow's notation."""

from collections.abc import Sequence

from limoe_tf.mesh.compat import mtf

AXES = ("data", "expert")
ROW_DIMENSIONS = ("batch", "origin")
DIMENSIONS = (*ROW_DIMENSIONS, "experts")
DEFAULT_LAYOUT = "batch:data;origin:expert;experts:expert"


def read_shape(text: str) -> mtf.Shape:
    """Returns the shape that reads like "data:2;expert:4"."""
    if not isinstance(text, str):
        raise TypeError(f"`shape` must be a string or None. Received: shape={text!r}")
    try:
        shape = mtf.convert_to_shape(text)
    except ValueError as error:
        raise ValueError(
            f"`shape` must read like 'data:2;expert:4'. Received: shape={text!r}"
        ) from error
    names = shape.dimension_names
    if not names or not set(names) <= set(AXES) or len(names) > len(set(names)):
        raise ValueError(
            f"`shape` must name the axes {' and '.join(AXES)}, each at most once. "
            f"Received: shape={text!r}"
        )
    if min(shape.to_integer_list) < 1:
        raise ValueError(f"Every axis of `shape` must be at least 1. Received: shape={text!r}")
    return shape


def read_layout(text: str) -> mtf.LayoutRules:
    """Returns the layout rules that read like "batch:data;experts:expert"."""
    if not isinstance(text, str):
        raise TypeError(f"`layout` must be a string. Received: layout={text!r}")
    try:
        layout = mtf.convert_to_layout_rules(text)
    except ValueError as error:
        raise ValueError(
            f"`layout` must read like 'batch:data;experts:expert'. Received: layout={text!r}"
        ) from error
    axes = dict(layout._pairs)
    known = set(axes) <= set(DIMENSIONS) and set(axes.values()) <= set(AXES)
    row_axes = [axes[dimension] for dimension in ROW_DIMENSIONS if dimension in axes]
    if not known or len(axes) < len(layout._pairs) or len(row_axes) > len(set(row_axes)):
        raise ValueError(
            f"`layout` may give each of the dimensions {', '.join(DIMENSIONS)} one of the axes "
            f"{', '.join(AXES)}, and {' and '.join(ROW_DIMENSIONS)} different ones. "
            f"Received: layout={text!r}"
        )
    return layout


def check_devices(devices: Sequence[str], num_devices: int) -> list[str]:
    """Returns the names of devices as a list, if they are as many as the mesh has."""
    if not isinstance(devices, (list, tuple)) or not all(isinstance(d, str) for d in devices):
        raise TypeError(f"`devices` must be a list of names. Received: devices={devices!r}")
    if len(devices) != num_devices:
        count = len(devices)
        fitting = ", ".join(f"data:{count // n};expert:{n}" for n in divisors(count))
        raise ValueError(
            f"A mesh of {num_devices} devices needs as many; meshes that fit the {count} given "
            f"are: {fitting}. Received: devices={list(devices)}"
        )
    return list(devices)


def divisors(number: int) -> list[int]:
    """Returns the divisors of a number, the smallest first."""
    return [n for n in range(1, number + 1) if number % n == 0]
