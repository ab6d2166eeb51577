"""Runs experts on a mesh of devices, as one Mesh TensorFlow program.

The dimensions of the program that may be split, beside E experts, M rows (slots) of each and D:
  batch: the shares of the rows along the mesh axis `data`;
  origin: the shares of the rows along the mesh axis `expert`, that is where a row comes from;
  experts: E, split over the mesh axis `expert` while the experts compute.
"""

import math

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from limoe_tf.mesh.compat import mtf
from limoe_tf.mesh.program import HostLowering, ReplicaLowering, build_program

AXES = ("data", "expert")
ROW_DIMENSIONS = ("batch", "origin")
DIMENSIONS = (*ROW_DIMENSIONS, "experts")


class ExpertMesh:
    """A mesh of `data x expert` devices over which rows and experts are split.

    A mesh of one device calls the experts directly. On a larger one the devices exchange rows, so
    that each computes its own experts for the rows of all, and exchange the answers back.

    Args:
      shape: the mesh in Mesh TensorFlow's words, such as "data:2;expert:4"; an axis left out has
        size 1. None is one device.
      layout: Mesh TensorFlow's layout rules: which dimension (batch, origin, experts) is split over
        which mesh axis. A dimension without a rule is not split.
      devices: names of this host's devices, `data * expert` of them in row-major order of the mesh.
        None takes the first GPUs, or the first logical CPUs of a host without a GPU.

    Raises:
      TypeError: if `shape` or `layout` is not a string, or `devices` not a list of strings.
      ValueError: if an axis or a dimension is unknown, or the mesh has another number of devices.

    Reference: Mesh TensorFlow, https://arxiv.org/abs/1811.02084.
    """

    def __init__(
        self, shape=None, *, layout="batch:data;origin:expert;experts:expert", devices=None
    ):
        self.shape = _read_shape("data:1;expert:1" if shape is None else shape)
        self.num_devices = self.shape.size
        self.layout = _read_layout(layout)
        self._devices = None if devices is None else _check_devices(devices, self.num_devices)

    @property
    def devices(self):
        """The names of this host's devices that form the mesh.

        Raises:
          ValueError: if this host has fewer devices than the mesh.
        """
        # Not in the constructor: listing devices starts TensorFlow's runtime, and TPU replicas need
        # no device of the host.
        if self._devices is None:
            found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            names = [device.name for device in found[: self.num_devices]]
            self._devices = _check_devices(names, self.num_devices)
        return self._devices

    def check_num_experts(self, num_experts):
        """Returns `num_experts` if the mesh can split that many.

        Raises:
          ValueError: if the size of the mesh axis that splits the experts does not divide it.
        """
        shards = self._shards("experts")
        if num_experts % shards:
            fitting = ", ".join(str(n) for n in _divisors(num_experts))
            raise ValueError(
                f"`num_experts` must be divisible by the size {shards} of the mesh axis that "
                f"splits the experts; sizes {fitting} would fit. "
                f"Received: num_experts={num_experts}"
            )
        return num_experts

    @tf.autograph.experimental.do_not_convert
    def run(self, function, buffers, weights, *, replica=None):
        """Computes `function` for the rows of every expert, on the devices that hold the expert.

        Gradients flow to `buffers` and `weights`, and are those of one device.

        Args:
          function: called with <float>[E', M', D] and weights [E', ...] of the experts of one
            device; returns [E', M', D_out], each row from the same row of its input and its
            expert's weights alone. It is called once a device, and once before to learn D_out.
          buffers: <float>[E, M, D] rows of every expert. Several devices need static shapes, and
            any M will do.
          weights: tensors or variables, each [E, ...].
          replica: <int32>[] number of this replica, where the devices of the mesh are the replicas
            of one TPU program. `buffers` are then this replica's rows alone, and `weights` its own
            experts' alone, [E / shards, ...]. None: all devices belong to this host.

        Returns:
          <float>[E, M, D_out].

        Raises:
          ValueError: if a shape is unknown or does not fit the mesh, or if XLA is to compile the
            program of several devices of one host.
        """
        buffers = tf.convert_to_tensor(buffers)
        weights = [tf.convert_to_tensor(weight) for weight in weights]
        if self.num_devices == 1:
            return function(buffers, *weights)
        self._check_shapes(buffers, weights, is_replica=replica is not None)
        if replica is None:
            return self._run_on_host(function, buffers, weights)
        return self._run_on_replica(function, buffers, weights, replica)

    def _run_on_host(self, function, buffers, weights):
        _check_not_compiled()
        lowering = HostLowering(self.shape, self.layout, self.devices)
        rows, num_shares = buffers.shape[1], self._row_shares()
        buffers = tf.pad(buffers, [[0, 0], [0, -rows % num_shares], [0, 0]])
        share = buffers.shape[1] // num_shares
        return self._run_program(lowering, function, buffers, weights, share)[:, :rows]

    def _run_on_replica(self, function, buffers, weights, replica):
        if self._row_shares() != self.num_devices:
            raise ValueError(
                "`layout` must split the rows over every axis of a mesh of replicas, with rules "
                f"such as 'batch:data;origin:expert'. Received: layout={self.layout}"
            )
        lowering = ReplicaLowering(self.shape, self.layout, replica)
        return self._run_program(lowering, function, buffers, weights, buffers.shape[1])

    def _run_program(self, mesh_impl, function, buffers, weights, share):
        """Builds the program for `share` rows in each share of the rows, and lowers it."""
        num_experts, rows, width = buffers.shape
        shares = [(name, self._shards(name)) for name in ROW_DIMENSIONS]
        shape = [("all_experts", num_experts), *shares, ("rows", share), ("width", width)]
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "expert_mesh")
        placed = mesh_impl.place(mesh, buffers, mtf.Shape(shape))
        placed_weights = [
            mesh_impl.place(mesh, weight, _weight_shape(weight, num_experts)) for weight in weights
        ]
        result = build_program(mesh_impl, function, placed, placed_weights)
        collected = mesh_impl.collect(mtf.Lowering(graph, {mesh: mesh_impl}), result)
        return tf.reshape(collected, [num_experts, rows, result.shape[-1].size])

    def _shards(self, dimension):
        """Returns into how many pieces the layout splits a dimension of the program."""
        axis = self.layout.tensor_dimension_to_mesh_axis(mtf.Dimension(dimension, 1), self.shape)
        return 1 if axis is None else self.shape[axis].size

    def _row_shares(self):
        return math.prod(map(self._shards, ROW_DIMENSIONS))

    def _check_shapes(self, buffers, weights, is_replica):
        for tensor in [buffers, *weights]:
            if not tensor.shape.is_fully_defined():
                raise ValueError(
                    "A mesh of several devices needs static shapes, so a sharded model cannot be "
                    f"exported: build the model with one device. Received: shape={tensor.shape}"
                )
        if buffers.shape.rank != 3:
            raise ValueError(f"`buffers` must be [E, M, D]. Received: shape={buffers.shape}")
        num_experts = self.check_num_experts(buffers.shape[0])
        held = num_experts // self._shards("experts") if is_replica else num_experts
        for weight in weights:
            if weight.shape[:1] != [held]:
                raise ValueError(
                    f"`weights` must each hold {held} experts on their first axis. "
                    f"Received: shape={weight.shape}"
                )


def _weight_shape(weight, num_experts):
    inner = [(f"weight_{axis}", size) for axis, size in enumerate(weight.shape[1:])]
    return mtf.Shape([("experts", num_experts), *inner])


def _read_shape(text):
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


def _read_layout(text):
    if not isinstance(text, str):
        raise TypeError(f"`layout` must be a string. Received: layout={text!r}")
    try:
        layout = mtf.convert_to_layout_rules(text)
    except ValueError as error:
        raise ValueError(
            f"`layout` must read like 'batch:data;experts:expert'. Received: layout={text!r}"
        ) from error
    axes = {dimension: axis for dimension, axis in layout._pairs}
    known = set(axes) <= set(DIMENSIONS) and set(axes.values()) <= set(AXES)
    row_axes = [axes[dimension] for dimension in ROW_DIMENSIONS if dimension in axes]
    if not known or len(axes) < len(layout._pairs) or len(row_axes) > len(set(row_axes)):
        raise ValueError(
            f"`layout` may give each of the dimensions {', '.join(DIMENSIONS)} one of the axes "
            f"{', '.join(AXES)}, and {' and '.join(ROW_DIMENSIONS)} different ones. "
            f"Received: layout={text!r}"
        )
    return layout


def _check_devices(devices, num_devices):
    if not isinstance(devices, (list, tuple)) or not all(isinstance(d, str) for d in devices):
        raise TypeError(f"`devices` must be a list of names. Received: devices={devices!r}")
    if len(devices) != num_devices:
        count = len(devices)
        fitting = ", ".join(f"data:{count // n};expert:{n}" for n in _divisors(count))
        raise ValueError(
            f"A mesh of {num_devices} devices needs as many; meshes that would fit those there "
            f"are: {fitting}. Received: devices={list(devices)}"
        )
    return list(devices)


def _check_not_compiled():
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        raise ValueError(
            "XLA cannot compile a mesh of several devices of one host into one program: use "
            "jit_compile=False, or a mesh of one device. Received: jit_compile=True"
        )


def _divisors(number):
    return [n for n in range(1, number + 1) if number % n == 0]
