"""The TPU compiler's numbers for embedding images without dropping, of the sparse and dense model.

    .venv-tpu/bin/python -m benchmarks.tpu_evaluation [--only B/16@v5e:2x2 ...]

A loop whose trips depend on values counts once: what is counted is even routing, where the experts
need one round (`limoe_tf.moe.rounds`). Rows are added to those in
`runs/benchmarks/tpu_evaluation.json`.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import tpu_jobs  # noqa: F401 (first: it keeps libtpu from looking for a TPU)
from benchmarks import timing, tpu_table
from tpu_jobs import compile_check, gin_files

RESULTS = pathlib.Path("runs/benchmarks/tpu_evaluation.json")
GIN_FILE = "gin/runs/b16.gin"
IMAGES_A_CHIP = 64


class Row(NamedTuple):
    """A model on a slice."""

    size: str
    topology: str
    chips: int

    @property
    def name(self) -> str:
        return f"{self.size}@{self.topology}"


ROWS = (Row("B/16", "v5e:2x2", 4),)


def embed(model, batch, weights):
    """Embeds the images of a batch: what `lower.lower` takes for a function."""
    return {"embedding": model.infer({"image": batch["image"]})["image"]}


def measure(row: Row) -> dict[str, Any]:
    """Returns the record of one row."""
    start = time.time()
    size = f'limoe.Limoe.from_size.size = "{row.size}"'
    gin_files.parse([GIN_FILE], [*tpu_table.DATA, size])
    arguments = (row.topology, IMAGES_A_CHIP * row.chips)
    sparse, model = compile_check.check(*arguments, function=embed)
    dense, _ = compile_check.check(*arguments, function=embed, plan=("dense",) * len(model.plan))
    return {
        **row._asdict(),
        "sparse": describe(sparse),
        "dense": describe(dense),
        "compiling": round(time.time() - start),
    }


def describe(compiled) -> dict[str, Any]:
    """Returns the numbers of a `compile.Compiled`."""
    return {
        "flops": compiled.flops,
        "temporaries": compiled.temporaries,
        "sent": compiled.sent,
    }


_SCALES = {"flops": 1e12, "temporaries": 1e9, "sent": 1e6}


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Returns the records as a Markdown table."""
    head = ["images embedded, per chip", "chips", "TFLOP", "GB of temporaries", "MB sent"]
    lines = []
    for record in records:
        name = f"{record['size']}@{record['topology']}"
        for kind in ("sparse", "dense"):
            cells = [f"{record[kind][key] / scale:.2f}" for key, scale in _SCALES.items()]
            lines.append([f"{name}, {kind}", str(record["chips"]), *cells])
        ratio = record["sparse"]["flops"] / record["dense"]["flops"]
        lines.append([f"{name}, ratio", "", f"{ratio:.3f}", "", ""])
    return timing.grid(head, lines)


if __name__ == "__main__":
    tpu_table.run(__doc__, ROWS, measure, RESULTS, markdown)
