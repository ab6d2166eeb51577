"""The sparse layer: a feed-forward in which each token goes through K of E expert MLPs."""

import functools
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from limoe_tf import checks, tokens
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.moe import assign, groups, observe, sparse_values
from limoe_tf.moe.buffers import apply_to_joined, apply_to_streams
from limoe_tf.moe.experts import Experts
from limoe_tf.moe.router import Router
from limoe_tf.report import Report

ROUTERS = ("shared", "per_modality")


@keras.saving.register_keras_serializable(package="limoe_tf")
class SparseFeedForward(tokens.StreamsLayer):
    """A mixture-of-experts layer in the place of a dense feed-forward.

    Tokens of all streams are routed together, in groups of `group_size` examples. A token is
    dropped by an expert whose buffer is full, which then adds zero to the token's output.

    A dict of streams is answered by a dict and a Report; a plain tensor <float>[B, N, D] by a
    tensor alone, so that the layer stands in any Keras model. It is the stream of the one of
    `modalities`, or where there are several, of the name "tokens".

    Args:
      hidden_width: F, of each expert.
      num_experts: E.
      num_choices: K, experts per token.
      capacity_factor: slots of an expert in training, in proportion to an even share of the tokens;
        None drops no token.
      inference_capacity_factor: the same at inference; with None outputs do not depend on the other
        examples of the batch.
      slots_multiple_of: an expert's slots are rounded up to a multiple of this.
      normalize_gates: whether the gates of a token's kept choices are divided by their sum before
        they weigh the experts' outputs, see `assign.normalized`.
      group_size: examples whose tokens compete for slots; the last of a batch may be fewer. None:
        all of a replica's batch.
      dispatch_order: which tokens get slots first, one of `assign.ORDERS`.
      router_noise: in training, noise of standard deviation `router_noise / E` on the logits.
      routers: "shared", or "per_modality" for one router for each of `modalities`.
      modalities: names of the streams.
      min_experts: dict of the soft minimum of experts that a modality uses, any number from 1 to E:
        the threshold of its global entropy loss. None for `balance.default_min_experts`, as is
        what it leaves out for plain tensors.
      same_expert_init: whether all experts start from the same values.
      kernel_stddev, output_stddev: of the experts' initial values, see `Experts`.
      expert_mesh: `mesh.expert_mesh.ExpertMesh` or its shape, such as "data:2;expert:4"; None for
        one device. Not part of `get_config`.
      loss_weights: dict of weights by loss name, see `observe.observe`; losses with a weight go to
        `add_loss`. None: those of plain tensors have `sparse_values.PLAIN_LOSS_WEIGHTS`, and
        those of streams are left to the Report, as `Limoe` reads it. An empty dict for none at all.
      routing_metrics: metrics of `limoe_tf.metrics`, updated with the Report of each call; a Keras
        model logs them by their names.
      seed: of the router's noise.

    Reference: https://arxiv.org/abs/2206.02770, section 2.1.
    """

    def __init__(
        self,
        hidden_width: int,
        *,
        num_experts: int,
        num_choices: int = 1,
        capacity_factor: float | None = 1.05,
        inference_capacity_factor: float | None = None,
        slots_multiple_of: int = 4,
        normalize_gates: bool = False,
        group_size: int | None = None,
        dispatch_order: str = "batch_priority",
        router_noise: float = 1.0,
        routers: str = "shared",
        modalities: Sequence[str] = ("image", "text"),
        min_experts: Mapping[str, float] | None = None,
        same_expert_init: bool = True,
        kernel_stddev: float | None = None,
        output_stddev: float | None = None,
        expert_mesh: ExpertMesh | str | None = None,
        loss_weights: Mapping[str, float] | None = None,
        routing_metrics: Sequence[keras.metrics.Metric] = (),
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_width = checks.positive_int("hidden_width", hidden_width)
        self.num_experts = checks.positive_int("num_experts", num_experts)
        self.num_choices = sparse_values.choices(num_choices, num_experts)
        self.capacity_factor = sparse_values.capacity_factor("capacity_factor", capacity_factor)
        self.inference_capacity_factor = sparse_values.capacity_factor(
            "inference_capacity_factor", inference_capacity_factor
        )
        self.slots_multiple_of = checks.positive_int("slots_multiple_of", slots_multiple_of)
        self.normalize_gates = normalize_gates
        self.group_size = group_size
        if group_size is not None:
            checks.positive_int("group_size", group_size)
        self.dispatch_order = checks.one_of("dispatch_order", dispatch_order, assign.ORDERS)
        self.routers = checks.one_of("routers", routers, ROUTERS)
        self.modalities = tuple(modalities)
        plain_name = self.modalities[0] if len(self.modalities) == 1 else tokens.PLAIN
        self.plain_name = plain_name
        self.min_experts = sparse_values.min_experts(
            min_experts, self.modalities, num_experts, plain_name=plain_name
        )
        self.loss_weights = sparse_values.loss_weights(
            loss_weights, self.modalities, plain_name=plain_name
        )
        self.routing_metrics = sparse_values.metrics(routing_metrics)
        self.reports_tokens = False  # Set from outside to have `observe.each_token` in the Report.
        self.router = Router(
            num_experts,
            noise=router_noise,
            modalities=self.modalities if routers == "per_modality" else None,
            seed=seed,
        )
        self.experts = Experts(
            num_experts,
            hidden_width,
            same_init=same_expert_init,
            kernel_stddev=kernel_stddev,
            output_stddev=output_stddev,
            expert_mesh=expert_mesh,
            dtype=self.dtype_policy,
        )

    def build(self, streams_shape, valid_shape=None):
        self.width = tokens.width_of(streams_shape)
        self.router.build((None, None, self.width))
        self.experts.build((self.num_experts, None, self.width))
        self.built = True

    def call(
        self,
        streams: tf.Tensor | Mapping[str, tf.Tensor],
        valid: tf.Tensor | Mapping[str, tf.Tensor | None] | None = None,
        training: bool | None = None,
        mask: tf.Tensor | Mapping[str, tf.Tensor | None] | None = None,
    ) -> tf.Tensor | tuple[dict[str, tf.Tensor], Report]:
        """Returns the experts' weighted outputs and, for a dict of streams, the Report.

        Args:
          streams: dict of <float>[B, N, D], or a plain <float>[B, N, D].
          valid: <bool>[B, N], False on padding, of each stream in the same form; in a dict, None
            where every token is valid. If left out, `mask` says it.
          training: whether noise is added and `capacity_factor` applies; not so if it is frozen.
          mask: Keras' mask of `streams`; Keras fills it in.

        Returns:
          dict of <float>[B, N, D], and the Report described in `observe.observe`; for a plain
          tensor <float>[B, N, D] alone.

        Raises:
          ValueError: if a stream is not among the modalities, or shapes do not fit.
        """
        plain = tokens.is_plain(streams)
        self._check_names(streams, plain)
        streams, valid = tokens.as_streams(
            streams, valid, mask=mask, name=self.plain_name, width=self.width
        )
        outputs, report = self._routed(streams, valid, training)
        for loss in sparse_values.weighted(report, self.loss_weights, plain=plain):
            self.add_loss(loss)
        for metric in self.routing_metrics:
            metric.update_state(report)
        return outputs[self.plain_name] if plain else (outputs, report)

    def _check_names(self, streams, plain):
        if not plain:
            for name in streams:
                checks.one_of("streams", name, self.modalities)
        elif self.routers == "per_modality" and self.plain_name not in self.modalities:
            raise ValueError(
                "`streams` must be a dict by modality where each modality has a router. "
                f"Received: one tensor, for modalities={self.modalities}"
            )

    def _routed(self, streams, valid, training):
        training = training and bool(self.trainable_variables)  # Keras passes True to frozen ones.
        group_size = self.group_size if self._competes(training) else None
        examples = groups.num_examples(streams)
        streams, valid = groups.filled(streams, valid, group_size=group_size)
        joined, flags, layout = tokens.join(streams, valid, group_size=group_size)
        # Where shapes are static, XLA can do without the copy that joins the tokens.
        inputs = streams if self.experts.needs_padding else joined
        gates = self.router(inputs, layout=layout, training=training)
        slots_of = functools.partial(self._num_slots, training=training)
        num_slots = slots_of(tokens.sizes(joined)[1])
        with tf.name_scope("assign"):
            priority = assign.priority(
                self.dispatch_order,
                gates.probabilities,
                layout,
                num_choices=self.num_choices,
                seed=self._order_seed(training),
            )
            assignment = assign.assign(
                gates.probabilities,
                valid=flags,
                priority=priority,
                num_choices=self.num_choices,
                num_slots=groups.slots_taken(
                    slots_of, joined, examples=examples, group_size=group_size
                ),
            )
        apply = apply_to_streams if self.experts.needs_padding else apply_to_joined
        weighted = assign.normalized(assignment) if self.normalize_gates else assignment
        updates = apply(
            self.experts, inputs, layout, weighted, num_slots=num_slots, training=training
        )
        with tf.name_scope("observe"):
            report = observe.observe(
                gates,
                assignment,
                flags,
                layout,
                num_choices=self.num_choices,
                noise_std=self.router.noise_std,
                min_experts=self.min_experts,
                in_groups=self._competes(training),
            )
        if self.reports_tokens:
            each = observe.each_token(assignment, priority, flags, layout)
            report.metrics.update(groups.cut(each, examples))
        return groups.cut(updates, examples), report

    def _competes(self, training):
        """Whether tokens compete for slots; without dropping, groups change nothing."""
        return self._factor(training) is not None

    def _factor(self, training):
        return self.capacity_factor if training else self.inference_capacity_factor

    def _num_slots(self, tokens_in_group, training):
        factor = self._factor(training)
        if factor is None:
            return None
        return assign.capacity(
            tokens_in_group,
            num_experts=self.num_experts,
            num_choices=self.num_choices,
            capacity_factor=factor,
            multiple_of=self.slots_multiple_of,
        )

    def _order_seed(self, training):
        if self.dispatch_order != "random":
            return None
        return self.router.next_seed() if training else tf.constant([0, 0])

    def get_config(self):
        names = (
            "hidden_width", "num_experts", "num_choices", "capacity_factor",
            "inference_capacity_factor", "slots_multiple_of", "normalize_gates", "group_size",
            "dispatch_order", "routers", "modalities", "min_experts", "loss_weights",
        )  # fmt: skip
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "routing_metrics": [*map(keras.saving.serialize_keras_object, self.routing_metrics)],
            "router_noise": self.router.noise,
            "same_expert_init": self.experts.same_init,
            "kernel_stddev": self.experts.kernel_stddev,
            "output_stddev": self.experts.output_stddev,
            "seed": self.router.seed,
        }
