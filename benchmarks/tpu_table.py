"""Compiles the train step of every size for a TPU slice, at the paper's global batch: one table.

    .venv-tpu/bin/python -m benchmarks.tpu_table [--only B/16@v5e:8x16 ...]

Each row takes minutes. Rows are added to those in `runs/benchmarks/tpu_table.json`.
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tpu_jobs  # noqa: F401 (first: it keeps libtpu from looking for a TPU)
from tpu_jobs import compile_check, gin_files, tpu_environment

RESULTS = pathlib.Path("runs/benchmarks/tpu_table.json")
DATA = ["TRAIN_FILES = ''", "TEST_FILES = ''", "VOCABULARY = ''"]
HEAD = (
    "model", "slice", "chips", "pairs per chip", "HBM, GiB", "of", "all-to-alls", "all-reduces",
    "sent, MB", "computing, ms", "HBM, ms", "step, ms", "of the peak", "to the dense model",
)  # fmt: skip


class Row(NamedTuple):
    """One compilation."""

    size: str
    topology: str
    global_batch: int
    gin_file: str

    @property
    def name(self) -> str:
        return f"{self.size}@{self.topology}"


def _scaling_study(size, topology):
    return Row(size, topology, 16_384, "gin/runs/b16.gin")


def _h14(topology):
    return Row("H/14", topology, 21_504, "gin/runs/h14.gin")


ROWS = (
    _scaling_study("S/32", "v5e:4x4"),
    _scaling_study("S/16", "v5e:8x8"),
    _scaling_study("B/32", "v5e:4x8"),
    _scaling_study("B/16", "v5e:8x16"),
    _scaling_study("L/32", "v5e:8x16"),
    _scaling_study("L/16", "v5p:4x4x8"),
    _h14("v4:4x8x8"),
    _h14("v5p:4x8x8"),
    _h14("v6e:16x16"),
)


def measure(row: Row) -> dict[str, Any]:
    """Returns the record of one row."""
    from limoe_tf.tpu import compile, summary

    start = time.time()
    gin_files.parse([row.gin_file], [*DATA, f'limoe.Limoe.from_size.size = "{row.size}"'])
    record = {"size": row.size, "topology": row.topology, "global_batch": row.global_batch}
    try:
        step, model = compile_check.check(row.topology, row.global_batch)
    except compile.DoesNotFit as error:
        return {**record, "fault": str(error), "largest": error.largest}
    dense = ("dense",) * len(model.plan)
    try:
        dense_step, _ = compile_check.check(row.topology, row.global_batch, plan=dense)
        record["dense_seconds"] = dense_step.seconds
    except compile.DoesNotFit as error:
        record["dense_fault"] = str(error)
    kinds = [collective.kind for collective in step.collectives]
    return {
        **record,
        "chips": step.num_chips,
        "memory": step.memory,
        "memory_of_chip": step.chip.memory_bytes,
        "all_to_alls": kinds.count("all-to-all"),
        "all_reduces": kinds.count("all-reduce"),
        "others": sorted(set(kinds) - {"all-to-all", "all-reduce"}),
        "sent": step.sent,
        "flops": step.flops,
        "hbm_bytes": step.hbm_bytes,
        "bounds": step.bounds,
        "seconds": step.seconds,
        "utilisation": step.utilisation(summary.model_flops(model, row.global_batch)),
        "compiling": round(time.time() - start),
    }


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Returns the records as a Markdown table."""
    lines = [" | ".join(HEAD), " | ".join(["---"] * len(HEAD))]
    for record in records:
        cells = [record["size"], f"`{record['topology']}`"]
        if "fault" in record:
            cells += [record["fault"]]
        else:
            ratio = "-"
            if "dense_seconds" in record:
                ratio = f"{record['seconds'] / record['dense_seconds']:.2f}"
            cells += [
                str(record["chips"]),
                str(record["global_batch"] // record["chips"]),
                f"{record['memory'] / 2**30:.1f}",
                f"{record['memory_of_chip'] / 2**30:.0f}",
                str(record["all_to_alls"]),
                str(record["all_reduces"]),
                f"{record['sent'] / 1e6:.0f}",
                f"{record['bounds']['computing'] * 1e3:.0f}",
                f"{record['bounds']['HBM'] * 1e3:.0f}",
                f"{record['seconds'] * 1e3:.0f}",
                f"{record['utilisation']:.0%}",
                ratio,
            ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def run(
    description: str,
    rows: Sequence,
    measure: Callable,
    path: pathlib.Path,
    markdown: Callable,
) -> None:
    """Reads the command line, measures the chosen rows, and prints all measured ones.

    Args:
      description: its first line is the command's description.
      rows: objects with a `name`.
      measure: function from a row to its record.
      path: of the JSON file of records by name; each is added as soon as it is measured.
      markdown: function from a list of records to text.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    names = [row.name for row in rows]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ROW",
                        help=f"rows to compile, of: {', '.join(names)}")  # fmt: skip
    wanted = parser.parse_args().only
    tpu_environment.check_compiler()
    _measure_each([row for row in rows if row.name in wanted], measure, path)
    records = _read(path)
    print(markdown([records[name] for name in names if name in records]))


def _measure_each(rows, measure, path):
    start = time.time()
    for number, row in enumerate(rows):
        left = (time.time() - start) / number * (len(rows) - number) if number else 0
        after = f", some {left / 60:.0f} minutes left" if number else ""
        print(f"{number + 1} of {len(rows)}: {row.name}{after}", file=sys.stderr, flush=True)
        measured = measure(row)
        records = {**_read(path), row.name: measured}  # Others may have added theirs meanwhile.
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records, indent=2) + "\n", "utf-8")


def _read(path):
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


if __name__ == "__main__":
    run(__doc__, ROWS, measure, RESULTS, markdown)
