"""Runs experts on a mesh of devices, as one Mesh TensorFlow program.

Besides E experts, M rows (slots) of each and D, the program has the dimensions:
  batch: the shares of the rows along the mesh axis `data`;
  origin: the shares of the rows along the mesh axis `expert`: the device that a row comes from;
  experts: E, split over the mesh axis `expert` while the experts compute.
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from limoe_tf import checks
from limoe_tf.mesh.compat import mtf
from limoe_tf.mesh.program import HostLowering, ReplicaLowering, build_program
from limoe_tf.mesh.replicas import ManyReplicas
from limoe_tf.mesh.shape import (
    DEFAULT_LAYOUT,
    ROW_DIMENSIONS,
    check_devices,
    divisors,
    read_layout,
    read_shape,
)

SPANS = ("host", "replicas")


class ExpertMesh:
    """A mesh of `data x expert` devices over which rows and experts are split.

    A mesh of one device calls the experts directly. On a larger one (expert parallelism) an
    all-to-all brings rows to the devices of their experts, and another one the outputs back.

    Args:
      shape: the mesh in Mesh TensorFlow's notation, such as "data:2;expert:4"; an axis left out has
        size 1. None is one device.
      layout: Mesh TensorFlow's layout rules: which dimension (batch, origin, experts) is split over
        which mesh axis. A dimension without a rule is not split.
      devices: names of this host's devices, `data * expert` of them in row-major order of the mesh.
        None takes the first GPUs, or the first logical CPUs of a host without a GPU.
      spans: "host" for a mesh of this host's devices, all driven by one program; "replicas" for
        the replicas of a strategy, each with variables of its own experts.

    Raises:
      TypeError: if `shape` or `layout` is not a string, or `devices` not a list of strings.
      ValueError: if an axis or a dimension is unknown, or the mesh has another number of devices,
        or a mesh of replicas does not split rows over both axes and the experts over `expert`.

    Reference: Mesh TensorFlow, https://arxiv.org/abs/1811.02084.
    """

    def __init__(
        self,
        shape: str | None = None,
        *,
        layout: str = DEFAULT_LAYOUT,
        devices: Sequence[str] | None = None,
        spans: str = "host",
    ):
        self.shape = read_shape("data:1;expert:1" if shape is None else shape)
        self.num_devices = self.shape.size
        self.layout = read_layout(layout)
        self._devices = None if devices is None else check_devices(devices, self.num_devices)
        self.spans = checks.one_of("spans", spans, SPANS)
        if spans == "replicas":
            self._check_splits()

    @property
    def over_replicas(self) -> bool:
        """Whether the devices are replicas of a strategy, each with one shard of the experts."""
        return self.spans == "replicas" and self.num_devices > 1

    @property
    def num_shards(self) -> int:
        """Number of shards of the experts' variables."""
        return self._shards("experts") if self.over_replicas else 1

    def num_local_experts(self, num_experts: int) -> int:
        """Returns how many of a layer's experts have their variables on one replica."""
        return self.check_num_experts(num_experts) // self.num_shards

    def shard_of(self, replica: int) -> int:
        """Returns the index of the experts' shard on replica number `replica`."""
        place = mtf.pnum_to_processor_coordinates(self.shape, replica)
        return dict(zip(self._axes, place)).get("expert", 0)

    def groups(self, axis: str) -> list[list[int]]:
        """Returns lists of the numbers of replicas whose coordinates differ along `axis` only."""
        if axis not in self._axes:
            return [[number] for number in range(self.num_devices)]
        along = self._axes.index(axis)
        groups = {}
        for number in range(self.num_devices):
            place = list(mtf.pnum_to_processor_coordinates(self.shape, number))
            place[along] = None
            groups.setdefault(tuple(place), []).append(number)
        return list(groups.values())

    @property
    def _axes(self):
        return self.shape.dimension_names

    @property
    def devices(self) -> list[str]:
        """The names of this host's devices that form the mesh.

        Raises:
          ValueError: if this host has fewer devices than the mesh.
        """
        # Not in the constructor: it starts TensorFlow's runtime, and TPU replicas need no devices.
        if self._devices is None:
            found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            names = [device.name for device in found[: self.num_devices]]
            self._devices = check_devices(names, self.num_devices)
        return self._devices

    def check_num_experts(self, num_experts: int) -> int:
        """Returns `num_experts` if the mesh can split that many.

        Raises:
          ValueError: if the size of the mesh axis that splits the experts does not divide it.
        """
        shards = self._shards("experts")
        if num_experts % shards:
            fitting = ", ".join(str(n) for n in divisors(num_experts))
            raise ValueError(
                f"`num_experts` must be divisible by the size {shards} of the mesh axis that "
                f"splits the experts; sizes {fitting} would fit. "
                f"Received: num_experts={num_experts}"
            )
        return num_experts

    @tf.autograph.experimental.do_not_convert
    def run(
        self,
        function: Callable,
        buffers: tf.Tensor,
        weights: Sequence[tf.Tensor],
        *,
        context: ManyReplicas | None = None,
    ) -> tf.Tensor:
        """Computes `function` for the rows of every expert, on the device of that expert.

        Gradients flow to `buffers` and `weights`, and are those of one device.

        Args:
          function: called with <float>[E', M', D] and weights [E', ...] of the experts of one
            device; returns [E', M', D_out], each row only from the same row of its input and
            its expert's weights. It is called once per device, and once before to infer D_out.
          buffers: <float>[E, M, D] rows of every expert; static shapes for several devices.
          weights: tensors or variables, each [E, ...].
          context: `replicas.current()` on a mesh of replicas: `buffers` are this replica's rows
            only, `weights` those of its experts, [E / shards, ...]. None on a mesh of this host.

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
        self._check_shapes(buffers, weights, is_replica=context is not None)
        if context is None:
            return self._run_on_host(function, buffers, weights)
        return self._run_on_replica(function, buffers, weights, context)

    def _run_on_host(self, function, buffers, weights):
        _check_not_compiled()
        lowering = HostLowering(self.shape, self.layout, self.devices)
        rows, num_shares = buffers.shape[1], self._row_shares()
        buffers = tf.pad(buffers, [[0, 0], [0, -rows % num_shares], [0, 0]])
        share = buffers.shape[1] // num_shares
        return self._run_program(lowering, function, buffers, weights, share)[:, :rows]

    def _run_on_replica(self, function, buffers, weights, context):
        self._check_splits()
        lowering = ReplicaLowering(self.shape, self.layout, context)
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
        """Returns into how many parts the layout splits a dimension of the program."""
        axis = self.layout.tensor_dimension_to_mesh_axis(mtf.Dimension(dimension, 1), self.shape)
        return 1 if axis is None else self.shape[axis].size

    def _row_shares(self):
        return math.prod(map(self._shards, ROW_DIMENSIONS))

    def _check_splits(self):
        sizes = dict(zip(self._axes, self.shape.to_integer_list))
        if self._row_shares() != self.num_devices or self._shards("experts") != sizes.get(
            "expert", 1
        ):
            raise ValueError(
                "`layout` must split the rows over every axis of a mesh of replicas, and the "
                f"experts over the axis expert, as '{DEFAULT_LAYOUT}' does. "
                f"Received: layout={self.layout}"
            )

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
        local_experts = num_experts // self._shards("experts") if is_replica else num_experts
        for weight in weights:
            if weight.shape[:1] != [local_experts]:
                raise ValueError(
                    f"`weights` must each have {local_experts} experts on their first axis. "
                    f"Received: shape={weight.shape}"
                )


def _weight_shape(weight, num_experts):
    inner = [(f"weight_{axis}", size) for axis, size in enumerate(weight.shape[1:])]
    return mtf.Shape([("experts", num_experts), *inner])


def _check_not_compiled():
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        raise ValueError(
            "XLA cannot compile a mesh of several devices of one host into one program: use "
            "jit_compile=False, or a mesh of one device. Received: jit_compile=True"
        )
