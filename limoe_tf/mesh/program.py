"""The experts as a Mesh TensorFlow program, and its lowerings to one host and to replicas."""

import functools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from limoe_tf.mesh.compat import mtf
from limoe_tf.mesh.replicas import ManyReplicas


def build_program(
    mesh_impl: mtf.MeshImpl, function: Callable, rows: mtf.Tensor, weights: Sequence[mtf.Tensor]
) -> mtf.Tensor:
    """Adds the exchange of rows, the experts and the exchange back to the graph of `rows`.

    Args:
      mesh_impl: the lowering of the program; its layout decides what is split.
      function: the experts of one device, as `ExpertMesh.run` takes it.
      rows: <float>[all_experts, batch, origin, rows, width] Mesh TensorFlow tensor.
      weights: Mesh TensorFlow tensors, each [experts, ...].

    Returns:
      <float>[all_experts, batch, origin, rows, width] of the width of `function`'s outputs.
    """
    experts = mtf.Dimension("experts", rows.shape[0].size)
    gathered = [_gather(mesh_impl, dimension, experts) for dimension in rows.shape[1:]]
    exchanged = mtf.reshape(rows, mtf.Shape([experts, *gathered]))
    output = _output_of_one_device(mesh_impl, function, [exchanged, *weights])
    width = mtf.Dimension("width", output.shape[-1])
    computed = mtf.slicewise(
        functools.partial(_call_with_joined_rows, function),
        [exchanged, *weights],
        output_shape=mtf.Shape([experts, *gathered[:-1], width]),
        output_dtype=output.dtype,
        splittable_dims=[experts, *gathered],
    )
    return mtf.reshape(computed, mtf.Shape([*rows.shape[:-1], width]))


def _gather(mesh_impl, dimension, experts):
    """Returns `dimension`, no longer split if the experts are to be split over its mesh axis."""
    layouts = [mesh_impl.tensor_layout(mtf.Shape([d])) for d in (dimension, experts)]
    axis, experts_axis = [layout.tensor_axis_to_mesh_axis[0] for layout in layouts]
    if axis is None or axis != experts_axis:
        return dimension
    return mtf.Dimension(f"all_{dimension.name}", dimension.size)


def _output_of_one_device(mesh_impl, function, inputs):
    """Returns a symbolic output: Mesh TensorFlow needs its shape and dtype beforehand."""
    specs = [tf.TensorSpec(mesh_impl.slice_shape(x.shape), x.dtype) for x in inputs]
    call = tf.function(functools.partial(_call_with_joined_rows, function), autograph=False)
    return call.get_concrete_function(*specs).outputs[0]


def _call_with_joined_rows(function, rows, *weights):
    """Calls `function` with [E', batch, origin, rows, width] as [E', M', D]."""
    num_experts, *shares, width = rows.shape
    output = function(tf.reshape(rows, [num_experts, math.prod(shares), width]), *weights)
    if output.shape.rank != 3 or output.shape[:2] != [num_experts, math.prod(shares)]:
        raise ValueError(
            f"`function` must return [{num_experts}, {math.prod(shares)}, D_out]. "
            f"Received: shape={output.shape}"
        )
    return tf.reshape(output, [num_experts, *shares, output.shape[-1]])


class HostLowering(mtf.placement_mesh_impl.PlacementMeshImpl):
    """Runs the program on devices of one host.

    Args:
      shape: the Mesh TensorFlow shape of the mesh.
      layout: the Mesh TensorFlow layout rules.
      devices: list of names of devices, in row-major order of the mesh.
    """

    def place(self, mesh: mtf.Mesh, tensor: tf.Tensor, shape: mtf.Shape) -> mtf.Tensor:
        """Lays a whole tensor out on the mesh."""
        return mtf.import_tf_tensor(mesh, tf.reshape(tensor, shape.to_integer_list), shape)

    def collect(self, lowering: mtf.Lowering, result: mtf.Tensor) -> tf.Tensor:
        """Returns the whole of a result."""
        return lowering.export_to_tf_tensor(result)

    def make_slices(self, tf_tensor, tensor_shape):
        """Uses `tf.split`, where Mesh TensorFlow slices.

        The gradient of slices is a padded whole tensor per device, that of a split one concat.
        """
        layout = self.tensor_layout(tensor_shape).tensor_axis_to_mesh_axis
        split = [(axis, mesh) for axis, mesh in enumerate(layout) if mesh is not None]
        pieces = {(): tf_tensor}
        for axis, mesh_axis in split:
            pieces = {
                (*place, index): part
                for place, piece in pieces.items()
                for index, part in enumerate(tf.split(piece, self.shape[mesh_axis].size, axis))
            }
        places = [mtf.pnum_to_processor_coordinates(self.shape, i) for i in range(self.size)]
        return [pieces[tuple(place[mesh_axis] for _, mesh_axis in split)] for place in places]

    def alltoall(self, x, mesh_axis, split_axis, concat_axis):
        """Sends each piece directly to its device.

        Mesh TensorFlow passes pieces around a ring, in three times as many operations to trace.
        """
        exchange = functools.partial(
            mtf.placement_mesh_impl.alltoall_pointtwise,
            split_axis=split_axis,
            concat_axis=concat_axis,
        )
        return self._collective_with_groups(x, [mesh_axis], exchange)


class ReplicaLowering(mtf.simd_mesh_impl.SimdMeshImpl):
    """Runs the program on replicas; every tensor is this replica's slice.

    Args:
      shape: the Mesh TensorFlow shape of the mesh.
      layout: the Mesh TensorFlow layout rules.
      context: `replicas.ManyReplicas`.
    """

    def __init__(self, shape: mtf.Shape, layout: mtf.LayoutRules, context: ManyReplicas):
        super().__init__(shape, layout)
        # Mesh TensorFlow would create this tensor itself, in the manner of TensorFlow 1.
        self._pnum_tensor = context.index
        self._context = context

    def place(self, mesh: mtf.Mesh, tensor: tf.Tensor, shape: mtf.Shape) -> mtf.Tensor:
        """Lays out this replica's slice of a tensor of `shape`."""
        local = tf.reshape(tensor, self.slice_shape(shape))
        return mtf.import_laid_out_tensor(mesh, self.LaidOutTensor([local]), shape)

    def collect(self, lowering: mtf.Lowering, result: mtf.Tensor) -> tf.Tensor:
        """Returns this replica's slice of a result."""
        return lowering.tensors[result].to_laid_out_tensor().one_slice

    def alltoall(self, x, mesh_axis, split_axis, concat_axis):
        """Exchanges in the tensor's own precision, where Mesh TensorFlow rounds to bfloat16."""
        groups = self._create_group_assignment([mesh_axis])
        if len(groups[0]) == 1:
            return x
        exchanged = self._context.all_to_all(
            x.to_laid_out_tensor().one_slice,
            groups=groups,
            split_axis=split_axis,
            concat_axis=concat_axis,
        )
        return self.LaidOutTensor([exchanged])
