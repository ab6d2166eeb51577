"""VL-MoE: a Transformer with experts for each modality, trained by filling in what is masked.

Axis letters: B examples, N tokens of a stream, P patches of an image, M masked places, D width, E
experts, K choices.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from limoe_tf import checks, companions, initial, report
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.model import counts, inputs, patch_codes, sizes, vl_streams
from limoe_tf.model.block import Block
from limoe_tf.model.embed import PatchEmbed, WordEmbed
from limoe_tf.model.encoder import Encoder
from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.model.limoe_features import LimoeFeatures
from limoe_tf.model.masked_heads import MaskedPatchHead, MaskedWordHead, at_places
from limoe_tf.model.per_stream import PerStream
from limoe_tf.model.vl_streams import LOSSES, STREAMS
from limoe_tf.moe.sparse import SparseFeedForward
from limoe_tf.moe.sparse_values import OF_MODELS
from limoe_tf.objectives.masked import masked_classes, masked_values
from limoe_tf.report import Report
from limoe_tf.train.fit import TrainableModel

PATCH_TARGETS = ("codes", "pixels")


@keras.saving.register_keras_serializable(package="limoe_tf")
class VlMoe(TrainableModel):
    """Attention for all, and for each modality feed-forwards of its own, in some blocks experts.

    An image alone takes the feed-forwards of images (V), a text alone those of texts (T). In a pair
    image and text attend to each other; each takes those of its modality, and in the last blocks
    both take a third (VL). A sparse block has experts and a router in the place of V, and others in
    that of T; VL is dense.

    A batch is a dict of pairs, of images alone, of texts alone, or of all three, as many of each:

    * `image` <uint8>[B, H, W, 3] and `text` <int32>[B, N], `text_valid` <bool>[B, N]: pairs;
    * `lone_image` <uint8>[B, H, W, 3];
    * `lone_text` <int32>[B, N], `lone_text_valid` <bool>[B, N], False on padding.

    What is masked, as `data.masked_batches` draws it, stands beside each: of `image`
    `image_masked` <int32>[B, M], places of patches in the order of rows; of `text` `text_shown`
    <int32>[B, N], the ids that the model sees, `text_masked` <int32>[B, M], places, and
    `text_masked_present` <bool>[B, M], False on places that only fill the shape. For ids,
    `vocabulary_size` is the mask. Without these nothing is masked, and the loss is left out.

    Args:
      width: D.
      depth, num_heads: number of blocks, and of attention heads in each.
      hidden_width: of a dense feed-forward and of each expert.
      patch_size, image_size: sides in pixels; the former divides the latter.
      fused_blocks: number of the last blocks that have a feed-forward for pairs.
      text_length, vocabulary_size: word pieces of a text (with padding), and in the vocabulary.
      plan: "dense" or "sparse" for each block; every second block is sparse if None.
      num_experts: E, of each modality in each sparse block, or a sequence of a number for each; or
        a dict of one of these for "image" and for "text".
      num_choices: K, experts per token.
      capacity_factor: slots of an expert in training, in proportion to an even share of the tokens;
        None drops no token.
      inference_capacity_factor: the same at inference.
      normalize_gates: whether the gates of a token's kept choices are divided by their sum.
      group_size: examples whose tokens compete for slots; a replica's whole batch if None.
      dispatch_order: one of `moe.assign.ORDERS`.
      router_noise: in training, noise of standard deviation `router_noise / E`; 0 for none.
      same_expert_init: whether all experts of a layer start from the same values.
      route_together: whether the tokens of lone images (texts) and those of pairs are routed
        together; if not, each compete among themselves. The paper does not say.
      patch_targets: "codes" of a codebook, or "pixels", whose loss is the mean squared error.
      num_codes: of the codebook, see `use_codebook`.
      tied_words: whether masked words are told by the vectors with which words are embedded.
      word_share, pair_word_share: shares of the words that are masked, of texts alone and of pairs.
      patch_share, pair_patch_share: the same of patches.
      masked_heads: whether there are heads for masked words and patches; a model that is fine-tuned
        does without, see `limoe_tf.downstream`.
      init_stddev: of initial values, a truncated normal; that of the last matrix of attention,
        feed-forward and experts is divided by the root of 2 l in block l. None for the initial
        values of `Limoe`.
      layer_scale: see `Block`; None for none.
      drop_path: stochastic depth of the last block, see `Block`; that of the others is in
        proportion to their number, from 0.
      expert_mesh: `mesh.expert_mesh.ExpertMesh` that shards the experts, or its shape, such as
        "data:2;expert:4"; None for one device. Not saved with the model.
      attention_chunks: so many chunks of the examples attend one after another, each computed again
        in the backward pass, so that the tables of scores fit the memory on a TPU chip; 1 for all
        at once, None for a number by their size. Counts where XLA compiles, see `SelfAttention`.
      recompute_blocks: whether blocks are recomputed in the backward pass, see `Encoder`.
      seed: of the routers' noise and of stochastic depth.

    Reference: https://arxiv.org/abs/2303.07226; https://arxiv.org/abs/2111.02358 (experts of
      modalities); https://arxiv.org/abs/2208.10442 (masked pretraining on three batches).
    """

    default_weights: ClassVar = vl_streams.default_weights()
    per_replica: ClassVar = (*LOSSES, *(f"{loss}_accuracy" for loss in LOSSES))
    summary_logs: ClassVar = (
        *LOSSES,
        *(f"{loss}_accuracy" for loss in LOSSES),
        *(f"success_rate_{stream}" for stream in STREAMS),
    )
    modalities: ClassVar = ("image", "text")
    head_names: ClassVar = ("word_head", "patch_head", "patch_codes")
    stream_keys: ClassVar = {name: stream.key for name, stream in STREAMS.items()}

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        hidden_width: int,
        patch_size: int,
        image_size: int,
        fused_blocks: int,
        text_length: int = 96,
        vocabulary_size: int = 64_000,
        plan: Sequence[str] | None = None,
        num_experts: int | Sequence[int] | Mapping[str, int | Sequence[int]] = 32,
        num_choices: int = 1,
        capacity_factor: float | None = 1.05,
        inference_capacity_factor: float | None = None,
        normalize_gates: bool = False,
        group_size: int | None = None,
        dispatch_order: str = "batch_priority",
        router_noise: float = 1.0,
        same_expert_init: bool = True,
        route_together: bool = False,
        patch_targets: str = "codes",
        num_codes: int = 8192,
        tied_words: bool = True,
        word_share: float = 0.15,
        pair_word_share: float = 0.5,
        patch_share: float = 0.4,
        pair_patch_share: float = 0.4,
        masked_heads: bool = True,
        init_stddev: float | None = 0.02,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        expert_mesh: ExpertMesh | str | None = None,
        attention_chunks: int | None = None,
        recompute_blocks: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        others = ("self", "kwargs", "expert_mesh", "others", "__class__")
        self._config = {name: value for name, value in locals().items() if name not in others}
        self.expert_mesh = ExpertMesh(expert_mesh) if isinstance(expert_mesh, str) else expert_mesh
        self.width = checks.positive_int("width", width)
        self.image_size, self.patch_size = image_size, patch_size
        self.text_length = checks.integer_in("text_length", text_length, 2)
        self.vocabulary_size = checks.positive_int("vocabulary_size", vocabulary_size)
        self.class_id, self.mask_id = vocabulary_size + 1, vocabulary_size
        self.plan = sizes.checked_plan(plan, depth)
        self.fused_blocks = checks.integer_in("fused_blocks", fused_blocks, 0, depth)
        self._num_experts = sizes.experts_of_modalities(num_experts, self.plan)
        self.image_embed = PatchEmbed(
            width,
            patch_size=patch_size,
            image_size=image_size,
            class_token=True,
            mask_token=True,
            stddev=init_stddev,
            **self._named("image_embed"),
        )
        # Behind the word pieces are the mask and the class token, which comes before each text.
        self.text_embed = WordEmbed(
            width,
            vocabulary_size=vocabulary_size + 2,
            text_length=text_length + 1,
            stddev=init_stddev,
            **self._named("text_embed"),
        )
        self.num_patches = self.image_embed.num_patches
        self.encoder = Encoder(
            [self._block(number) for number in range(depth)],
            recompute=recompute_blocks,
            **self._named("encoder"),
        )
        for stream in STREAMS.values():
            checks.number_in(stream.share, self._config[stream.share], 0, 1)
        checks.one_of("patch_targets", patch_targets, PATCH_TARGETS)
        self.word_head, self.patch_head, self.patch_codes = None, None, None
        if masked_heads:
            self._add_heads(tied_words, patch_targets, num_codes)
        self.build()

    def _add_heads(self, tied_words, patch_targets, num_codes):
        self.word_head = MaskedWordHead(
            self.vocabulary_size, tied=tied_words, **self._named("word_head")
        )
        if patch_targets == "codes":
            self.patch_codes = patch_codes.PatchCodes(
                num_codes, patch_size=self.patch_size, name="patch_codes"
            )
        outputs = num_codes if patch_targets == "codes" else 3 * self.patch_size**2
        self.patch_head = MaskedPatchHead(outputs, **self._named("patch_head"))

    @classmethod
    def from_size(cls, size: str, **overrides) -> "VlMoe":
        """Builds a named architecture.

        Args:
          size: one of `sizes.VLMOE_NAMES`, such as "VL-MoE-BASE".
          **overrides: constructor values to add or replace.

        Raises:
          ValueError: if the size is not known.
        """
        return cls(**{**sizes.vlmoe_values(size), **overrides})

    @property
    def progress_logs(self) -> tuple[str, ...]:
        """The losses by what is masked."""
        return LOSSES

    @property
    def useful_flops(self) -> int:
        """FLOPs of a forward pass of a pair, an image and a text, without empty slots."""
        return self.forward_flops(capacity_factor=1.0)["total"]

    def forward_flops(self, **changes: Any) -> dict[str, int]:
        """Returns FLOPs by part, with empty slots, see `counts.vlmoe_forward_flops`.

        Args:
          **changes: arguments of the constructor for which others count than the model's.
        """
        return counts.vlmoe_forward_flops({**self.get_config(), **changes})

    def _named(self, name):
        return {"name": name, "dtype": self.dtype_policy}

    def _block(self, number):
        values, last = self._config, max(len(self.plan) - 1, 1)
        start = initial.of_block(values["init_stddev"], number)
        layers = {modality: self._feed_forward(number, modality) for modality in ("image", "text")}
        of_stream = {name: layers[stream.modality] for name, stream in STREAMS.items()}
        if number >= len(self.plan) - self.fused_blocks:
            fused = DenseFeedForward(values["hidden_width"], **start, **self._named("pair"))
            of_stream.update(pair_text=fused, pair_image=fused)
        feed_forwards = PerStream(
            of_stream,
            together=values["route_together"],
            norms=True,
            **self._named("feed_forwards"),
        )
        return Block(
            values["num_heads"],
            feed_forwards,
            joint=(("pair_text", "pair_image"),),
            norm_feed_forward=False,
            layer_scale=values["layer_scale"],
            drop_path=values["drop_path"] * number / last,
            seed=self._seed(number, 2),
            attention_chunks=values["attention_chunks"],
            **start,
            **self._named(f"block_{number:02d}"),
        )

    def _feed_forward(self, number, modality):
        start = {**initial.of_block(self._config["init_stddev"], number), **self._named(modality)}
        if self.plan[number] == "dense":
            return DenseFeedForward(self._config["hidden_width"], **start)
        return SparseFeedForward(
            self._config["hidden_width"],
            num_experts=self._num_experts[modality][number],
            modalities=[name for name, one in STREAMS.items() if one.modality == modality],
            seed=self._seed(number, ("image", "text").index(modality)),
            expert_mesh=self.expert_mesh,
            **{value: self._config[value] for value in OF_MODELS},
            **start,
        )

    def _seed(self, number, use):
        """Returns another seed for each block and each of its three uses."""
        return 3 * (self._config["seed"] * len(self.plan) + number) + use

    def build(self, input_shape=None):
        images = (None, self.image_size, self.image_size, 3)
        self.image_embed.build(images)
        self.text_embed.build((None, self.text_length + 1))
        lengths = {"image": self.num_patches + 1, "text": self.text_length + 1}
        streams = {
            name: (None, lengths[stream.modality], self.width) for name, stream in STREAMS.items()
        }
        self.encoder.build(streams)
        for head in (self.word_head, self.patch_head):
            if head is not None:
                head.build((None, None, self.width))
        if self.patch_codes is not None:
            self.patch_codes.build(images)
        self.built = True

    def use_codebook(self, codebook: patch_codes.PatchCodebook) -> None:
        """Takes the codes of a codebook as the targets of masked patches, from now on.

        Raises:
          ValueError: if it has other patches, or not `num_codes` codes; if it is of the features of
            a model of other images; if the model's weights have been trained with another one, or
            its targets are pixels.
        """
        if self.patch_codes is None:
            raise ValueError(
                "A codebook is for a model with patch_targets='codes'. Received: "
                f"{codebook.path!r} for {self._config['patch_targets']!r}"
            )
        self.patch_codes.check(codebook)
        with self.distribute_strategy.scope():  # Where the variables of features must be.
            extract = LimoeFeatures(codebook.model) if codebook.model else None
            if extract is not None and extract.image_size != self.image_size:
                raise ValueError(
                    "A codebook of a LIMoE's features must be of one for the model's images of "
                    f"{self.image_size} pixels. Received: {codebook.path!r} of "
                    f"{extract.image_size} pixels"
                )
            companions.join(self, codebook=codebook, **({"features": extract} if extract else {}))
            self.patch_codes.use(codebook, extract)

    def call(self, batch: Mapping, training: bool | None = None) -> tuple[dict, Report]:
        """Returns the encoded streams and the Report of all blocks.

        Args:
          batch: see the class.
          training: whether the training capacity factor and noise apply.

        Returns:
          dict of <float>[B, N, D]: `image`, `text`, `pair_image` and `pair_text`, as the batch has
          them, each with its class token first; and the Report.
        """
        vl_streams.check_keys(batch)
        streams, valid = {}, {}
        for name, stream in STREAMS.items():
            if stream.key in batch:
                embed = {"image": self._embed_image, "text": self._embed_text}[stream.modality]
                streams[name], valid[name] = embed(batch, stream)
        return self.encoder(streams, valid, training=training)

    def _embed_image(self, batch, stream):
        masked = None
        if (places := batch.get(f"{stream.key}_masked")) is not None:
            marks = tf.one_hot(places, self.num_patches, on_value=True, off_value=False, dtype=bool)
            masked = tf.reduce_any(marks, axis=1)
        return self.image_embed(batch[stream.key], masked), None

    def _embed_text(self, batch, stream):
        text, valid = batch[stream.key], batch[f"{stream.key}_valid"]
        inputs.check_valid(valid, text)
        shown = batch.get(f"{stream.key}_shown", text)
        ids = tf.pad(tf.cast(shown, tf.int32), [[0, 0], [1, 0]], constant_values=self.class_id)
        # Static sizes are lost by padding of an unknown batch.
        ids = tf.ensure_shape(ids, [text.shape[0], self.text_length + 1])
        return self.text_embed(ids), tf.pad(valid, [[0, 0], [1, 0]], constant_values=True)

    def check_values(self, batch: Mapping) -> None:
        """Raises unless the pixels and ids of NumPy arrays or eager tensors are in range."""
        for stream in STREAMS.values():
            if stream.key not in batch:
                continue
            if stream.modality == "image":
                inputs.check_floats(batch[stream.key])
                continue
            inputs.check_ids(batch[stream.key], self.vocabulary_size)
            vl_streams.check_words(stream.key, batch)

    def forward(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> Report:
        """Returns the Report: the losses at what is masked, and those of the layers.

        They are `mlm` and `mim` of texts and images alone, `vlm_text` and `vlm_image` of pairs,
        with an accuracy of each, such as `mlm_accuracy`.

        Raises:
          ValueError: if nothing is masked, or there are no heads.
        """
        if self.word_head is None:
            raise ValueError(
                "Training with masks needs the heads of masked places. Received: masked_heads=False"
            )
        streams, parts = self(batch, training=training)
        losses, metrics = {}, report.mean_success_rates(parts)
        for name, stream in STREAMS.items():
            if stream.hidden[-1] in batch:
                found = self._filled(stream, streams[name], batch)
                losses[stream.loss] = found.loss
                if found.accuracy is not None:
                    metrics[f"{stream.loss}_accuracy"] = found.accuracy
        if not losses:
            raise ValueError(
                "A batch must say what is masked, as `data.masked_batches` does. "
                f"Received: keys={sorted(batch)}"
            )
        return Report({**losses, **parts.losses}, {**metrics, **parts.metrics})

    def _filled(self, stream, encoded, batch):
        """Returns the `masked.Masked` of a stream."""
        places = batch[f"{stream.key}_masked"]
        if stream.modality == "text":
            logits = self.word_logits(encoded, places)
            words = tf.gather(batch[stream.key], places, batch_dims=1)
            return masked_classes(logits, words, batch[f"{stream.key}_masked_present"])
        targets = tf.gather(self._targets(batch[stream.key]), places, batch_dims=1)
        loss = masked_values if self.patch_codes is None else masked_classes
        return loss(self.patch_logits(encoded, places), targets)

    def word_logits(self, stream: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Returns <float>[B, M, vocabulary_size] of an encoded text at `places` <int32>[B, M]."""
        words = at_places(stream, places + 1)  # The class token comes first.
        return self.word_head(words, self.text_embed.embeddings)

    def patch_logits(self, stream: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Returns <float>[B, M, codes or pixels] of an encoded image at `places` <int32>[B, M]."""
        return self.patch_head(at_places(stream, places + 1))

    def patch_targets(self, images: tf.Tensor) -> tf.Tensor:
        """Returns what the patches of images are: <int32>[B, P] codes or <float32>[B, P, F] pixels.

        Raises:
          ValueError: if the model has no codebook yet.
        """
        self._check_codebook()
        return self._targets(images)

    def _targets(self, images):
        if self.patch_codes is None:
            return patch_codes.pixels(images, patch_size=self.patch_size)
        return self.patch_codes(images)

    def _check_codebook(self):
        if self.patch_codes is None:
            return
        if "codebook" not in self.companions:
            raise ValueError(
                "A model whose targets are codes must be given a codebook, by `use_codebook`. "
                "Received: a model without one"
            )
        # Its weights do not hold the features, which a codebook's file brings.
        if "features" in self.companions and not self.patch_codes.is_foreign:
            raise ValueError(
                "A model whose targets are codes of a LIMoE's features must be given its codebook "
                "again, by `use_codebook`. Received: a model that was loaded without it"
            )

    def make_train_function(self, force=False):
        self._check_codebook()
        return super().make_train_function(force)

    def make_test_function(self, force=False):
        self._check_codebook()
        return super().make_test_function(force)

    @property
    def data_options(self) -> dict[str, Any]:
        """The sizes and shares of `data.masked_batches.masked_batches`."""
        return {"image_size": self.image_size, "patch_size": self.patch_size, **self._shares}

    @property
    def _shares(self):
        return {stream.share: self._config[stream.share] for stream in STREAMS.values()}

    def batch_spec(self, size: int | None) -> dict[str, tf.TensorSpec]:
        """Returns the specs of a batch of `size` pairs, images and texts, with what is masked."""
        return vl_streams.batch_spec(
            size,
            image_size=self.image_size,
            num_patches=self.num_patches,
            text_length=self.text_length,
            shares=self._shares,
        )

    def infer(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the encoded streams of a batch, <float32>[B, N, D] each."""
        streams, _ = self(batch, training=False)
        return {name: tf.cast(stream, tf.float32) for name, stream in streams.items()}

    def features(
        self, batch: Mapping, training: bool | None = None
    ) -> tuple[dict[str, tf.Tensor], Report]:
        """Returns a vector for each image and each text alone, and the Report of all blocks.

        Args:
          batch: `image`, or `text` and `text_valid`, or both, which do not meet.
          training: see `call`.

        Returns:
          dict of <float>[B, D]: `image`, the mean of the patches, and `text`, the class token.
        """
        alone = {f"lone_{name}": value for name, value in batch.items()}
        streams, parts = self(alone, training=training)
        pool = {"image": lambda stream: tf.reduce_mean(stream[:, 1:], axis=1), "text": _first}
        return {name: pool[name](stream) for name, stream in streams.items()}, parts

    def pair_features(
        self, batch: Mapping, training: bool | None = None
    ) -> tuple[tf.Tensor, Report]:
        """Returns a vector for each pair, <float>[B, D], and the Report; see `features`.

        Args:
          batch: `image`, `text` and `text_valid`.
          training: see `call`.
        """
        streams, parts = self(batch, training=training)
        return _first(streams["pair_text"]), parts

    def encode_image(self, images: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, 1 + P, D] of images alone, at inference."""
        return self.encode({"lone_image": images})["image"]

    def encode_text(self, text: tf.Tensor, text_valid: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, 1 + N, D] of texts alone, at inference."""
        return self.encode({"lone_text": text, "lone_text_valid": text_valid})["text"]

    def encode_pair(
        self, images: tf.Tensor, text: tf.Tensor, text_valid: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns <float32>[B, 1 + P, D] and <float32>[B, 1 + N, D] of pairs, at inference."""
        found = self.encode({"image": images, "text": text, "text_valid": text_valid})
        return found["pair_image"], found["pair_text"]

    def get_config(self) -> dict[str, Any]:
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        return {**super().get_config(), **self._config, "dtype": dtype}


def _first(stream):
    return stream[:, 0]
