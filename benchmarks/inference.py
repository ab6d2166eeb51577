"""Latency of exported models, dropless sparse against dense, by the size of the batch."""

import os
import random
import tempfile
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from benchmarks import models, timing
from benchmarks.models import DENSE, KINDS, SPARSE
from limoe_tf.data.words import Vocabulary, train_vocabulary
from limoe_tf.export import saved_model

# Its vocabulary is made here, of few captions. There is no training, so B does not matter.
CASE = models.of_size("S/16", 1, num_experts=32, vocabulary_size=1000)
# Images or texts per call -> calls of each model per round, on average.
CALLS = {1: 10, 8: 4, 64: 1, 256: 0.25}
PERCENTILES = (50, 90, 99)
REMARKS = """\
SavedModels as `tpu_jobs.export` writes them: float32, no token dropped, uint8 images of the model's
size or strings in, embeddings out. Images are computed one by one on purpose, so that a result does
not depend on the rest of the batch to the last bit; texts in blocks of up to 256. Latencies of a
call in milliseconds, as 50th / 90th / 99th percentile; the last is the slowest call where there are
few. Calls of dense and sparse alternate; ratios are taken between neighbours, and given as median
(quartiles), "processor" in processor time.
"""


def measure(
    *,
    rounds: int,
    progress: Callable,
    case: models.Case = CASE,
    calls: Mapping[int, float] = CALLS,
) -> timing.Table:
    """Times calls of the signatures `encode_image` and `encode_text`.

    Args:
      rounds: how many rounds of calls.
      progress: called with text to show.
      case: `models.Case`; its `vocabulary_size` must be one that made captions can fill.
      calls: see `CALLS`.

    Returns:
      `timing.Table` with a row for each signature and batch size.
    """
    records = []
    with tempfile.TemporaryDirectory() as folder:
        progress(f"{case.name} ")
        loaded = _exported(case, folder)
        inputs = _inputs(case, max(calls))
        for signature, (name, values) in inputs.items():
            for size, number in calls.items():
                count = max(1, round(rounds * number))
                steps = {
                    kind: _call(model.signatures[signature], name, values[:size])
                    for kind, model in loaded.items()
                }
                times = timing.interleaved(steps, rounds=count, turn_seconds=0)
                records.append(_record(case, signature, size, times))
                progress(".")
        progress("\n")
    return timing.Table(
        title="Inference with SavedModels, sparse and dense",
        remarks=REMARKS,
        columns=[
            "model", "signature", "batch", "calls", *(f"{kind}, ms" for kind in KINDS),
            "ratio to dense", "processor",
        ],
        rows=[_row(record) for record in records],
        records=records,
    )  # fmt: skip


def _exported(case, folder):
    """Returns the models, written and loaded again, by kind."""
    captions, loaded = _captions(1000), {}
    path = os.path.join(folder, "words.model")
    size = case.values["vocabulary_size"]
    train_vocabulary(captions, path=path, size=size, algorithm="bpe")
    vocabulary = Vocabulary(path, text_length=case.values["text_length"])
    for kind in KINDS:
        output = os.path.join(folder, kind)
        saved_model.export(models.build(case, kind), vocabulary, output)
        loaded[kind] = tf.saved_model.load(output)
    return loaded


def _captions(count):
    """Returns texts of made-up words, each long enough to need no padding."""
    draw = random.Random(0)
    words = ["".join(draw.choices("aeiouklmnprst", k=draw.randint(2, 8))) for _ in range(2000)]
    return [" ".join(draw.choices(words, k=12)) for _ in range(count)]


def _inputs(case, count):
    """Returns signature -> (name of its argument, `count` values)."""
    return {
        "encode_image": ("images", models.random_images(count, case.values["image_size"])),
        "encode_text": ("texts", tf.constant(_captions(count))),
    }


def _call(signature, name, values):
    return lambda: signature(**{name: values})


def _record(case, signature, size, times):
    return {
        "model": case.name,
        "experts": case.values["num_experts"],
        "signature": signature,
        "batch": size,
        "calls": len(times[DENSE].wall),
        "milliseconds": {
            kind: {f"p{p}": float(np.percentile(1000 * own.wall, p)) for p in PERCENTILES}
            for kind, own in times.items()
        },
        "ratio": timing.spread(times[SPARSE].wall / times[DENSE].wall),
        "processor_ratio": timing.spread(times[SPARSE].processor / times[DENSE].processor),
    }


def _row(record):
    """Returns a record as the text of a row."""
    return [
        record["model"],
        f"`{record['signature']}`",
        str(record["batch"]),
        str(record["calls"]),
        *(
            " / ".join(f"{value:.1f}" for value in record["milliseconds"][kind].values())
            for kind in KINDS
        ),
        timing.shown(record["ratio"]),
        timing.shown(record["processor_ratio"]),
    ]
