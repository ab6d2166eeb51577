"""The dense two-tower baseline: separate encoders of the same size for images and texts."""

from collections.abc import Sequence

import keras

from limoe_tf.model.limoe import Limoe
from limoe_tf.model.per_stream import PerStream


@keras.saving.register_keras_serializable(package="limoe_tf")
class TwoTower(Limoe):
    """As `Limoe`, but with a separate dense encoder for each modality.

    Args:
      width, depth, ...: as `Limoe`, of each tower. `plan` must be all dense.

    Reference: https://arxiv.org/abs/2206.02770, table 2 (dense two-tower).
    """

    def __init__(self, *, depth: int, plan: Sequence[str] | None = None, **kwargs):
        plan = ("dense",) * depth if plan is None else tuple(plan)
        if "sparse" in plan:
            raise ValueError(f"`plan` of a TwoTower must be all dense. Received: plan={plan}")
        super().__init__(depth=depth, plan=plan, **kwargs)

    @classmethod
    def from_size(cls, size: str, **overrides) -> "TwoTower":
        return super().from_size(size, **{"plan": None, **overrides})

    def _make_encoder(self):
        makers = [self._dense_feed_forward] * len(self.plan)
        towers = {
            name: self._encoder_of(makers, name=f"{name}_encoder") for name in self.modalities
        }
        return PerStream(towers, **self._named("encoder"))
