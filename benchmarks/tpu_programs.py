"""The TPU compiler's numbers for the sparse and the dense step, per chip and part by part.

    .venv-tpu/bin/python -m benchmarks.tpu_programs [--only B/16@v5e:8x16 ...]

Each row takes minutes. Rows are added to those in `runs/benchmarks/tpu_programs.json`.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import tpu_jobs  # noqa: F401 (first: it keeps libtpu from looking for a TPU)
from benchmarks import hlo_bytes, timing, tpu_table
from tpu_jobs import compile_check, gin_files

RESULTS = pathlib.Path("runs/benchmarks/tpu_programs.json")
GIN_FILE = "gin/runs/b16.gin"
PAIRS_A_CHIP = 64


class Row(NamedTuple):
    """A step on a slice.

    Attributes:
      size: of the model.
      topology: of the slice.
      global_batch: pairs of all chips.
      plan: of the blocks; None for that of the size.
      compare: whether the dense step is compiled too.
    """

    size: str
    topology: str
    global_batch: int
    plan: tuple[str, ...] | None = None
    compare: bool = True

    @property
    def name(self) -> str:
        blocks = "" if self.plan is None else f", {len(self.plan)} blocks"
        return f"{self.size}{blocks}@{self.topology}"


def _grown(topology, num_chips):
    plan = ("dense", "sparse") * 2
    return Row("S/16", topology, PAIRS_A_CHIP * num_chips, plan, compare=False)


ROWS = (
    Row("B/16", "v5e:2x2", 512),
    Row("B/16", "v5e:4x8", 4096),
    Row("B/16", "v5e:8x16", 16_384),
    Row("L/16", "v5p:4x4x8", 16_384),
    _grown("v5e:2x2", 4),
    _grown("v5e:4x4", 16),
    _grown("v5e:8x8", 64),
    _grown("v5e:16x16", 256),
)


def measure(row: Row) -> dict[str, Any]:
    """Returns the record of one row."""
    start = time.time()
    size = f'limoe.Limoe.from_size.size = "{row.size}"'
    gin_files.parse([GIN_FILE], [*tpu_table.DATA, size])
    changes = {} if row.plan is None else {"plan": row.plan, "depth": len(row.plan)}
    step, model = compile_check.check(row.topology, row.global_batch, **changes)
    record = {**row._asdict(), "chips": step.num_chips, "sparse": describe(step)}
    if row.compare:
        dense = {**changes, "plan": ("dense",) * len(model.plan)}
        step, _ = compile_check.check(row.topology, row.global_batch, **dense)
        record["dense"] = describe(step)
    return {**record, "compiling": round(time.time() - start)}


def describe(step) -> dict[str, Any]:
    """Returns the numbers of a `compile.Compiled`."""
    parts, around = hlo_bytes.by_part(step.hlo)
    return {
        "flops": step.flops,
        "bytes": step.hbm_bytes,
        "temporaries": step.temporaries,
        "sent": step.sent,
        "computing": step.bounds["computing"],
        "HBM": step.bounds["HBM"],
        "seconds": step.seconds,
        "parts": parts,
        "around": around,
    }


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Returns the records as Markdown: steps per chip, then the parts of those with a dense one."""
    compared = [record for record in records if "dense" in record]
    return "\n\n".join([_totals(records), *map(_parts, compared)])


def _totals(records):
    head = ["step, per chip", "chips", "pairs per chip", "TFLOP", "GB of HBM moved",
            "GB of temporaries", "MB sent", "ms of computing", "of HBM", "of the step"]  # fmt: skip
    lines = []
    for record in records:
        size = [record["chips"], record["global_batch"] // record["chips"]]
        name = Row(*(record[field] for field in Row._fields)).name
        for kind in ("sparse", "dense"):
            if kind in record:
                lines.append([f"{name}, {kind}", *map(str, size), *_cells(record[kind])])
        if "dense" in record:
            sparse, dense = record["sparse"], record["dense"]
            ratios = [f"{sparse[key] / dense[key]:.3f}" for key in _SCALES]
            lines.append([f"{name}, ratio", "", "", *ratios])
    return timing.grid(head, lines)


_SCALES = {"flops": 1e12, "bytes": 1e9, "temporaries": 1e9, "sent": 1e6,
           "computing": 1e-3, "HBM": 1e-3, "seconds": 1e-3}  # fmt: skip


def _cells(numbers):
    return [f"{numbers[key] / scale:.2f}" for key, scale in _SCALES.items()]


def _parts(record):
    sparse, dense = record["sparse"], record["dense"]
    names = {**sparse["parts"], **dense["parts"]}
    rows = [[name, sparse["parts"].get(name, 0), dense["parts"].get(name, 0)] for name in names]
    sums = ["sum", *(sum(kind["parts"].values()) for kind in (sparse, dense))]
    around = ["of it, around gathered rows", sparse["around"], dense["around"]]
    rows.sort(key=lambda row: row[2] - row[1])
    lines = []
    for name, a, b in (*rows, sums, around):
        gigabytes = [f"{value / 1e9:.2f}" for value in (a, b, a - b)]
        lines.append([name, *gigabytes, f"{(a - b) / dense['bytes']:.1%}"])
    title = f"{record['size']}, GB of HBM moved"
    return timing.grid([title, "sparse", "dense", "difference", "of dense"], lines)


if __name__ == "__main__":
    tpu_table.run(__doc__, ROWS, measure, RESULTS, markdown)
