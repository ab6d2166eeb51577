"""The benchmarks run, and their tables have what was measured."""

import functools
import json

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    fit,
    growth,
    inference,
    input_pipeline,
    memory,
    models,
    parts,
    photographs,
    sparse_layer,
    timing,
    train_step,
)

# One round, so that each ratio is that of two times.
CASES = (
    sparse_layer.Case(256, 8, 2),
    sparse_layer.Case(512, 4, 2),
    sparse_layer.Case(512, 4, 3, choices=2, capacity_factor=2.0, order="first_in_images_first"),
)
TOY = models.Case(
    "toy",
    {
        "width": 8,
        "depth": 1,
        "plan": ("sparse",),
        "num_heads": 2,
        "hidden_width": 16,
        "patch_size": 8,
        "image_size": 16,
        "text_length": 3,
        "vocabulary_size": 60,
        "num_experts": 5,
    },
    batch_size=4,
)


@pytest.fixture(scope="module")
def table():
    return sparse_layer.measure(rounds=1, progress=lambda text: None, cases=CASES)


def test_there_is_a_record_for_each_case(table):
    assert [sparse_layer.Case(*list(record.values())[:6]) for record in table.records] == [*CASES]
    assert all(0.5 < record["kept"] <= 1 for record in table.records)
    assert table.records[2]["kept"] > 0.9  # twice the room


def test_ratios_are_those_of_the_times(table):
    for record in table.records:
        times = {name: value["median"] for name, value in record["milliseconds"].items()}
        sparse, fastest = times.pop("sparse"), record["fastest"]
        assert set(times) == set(sparse_layer.DENSE)
        assert times[fastest] == min(times.values()) > 0
        assert record["ratio_to_plain"]["median"] == pytest.approx(sparse / times["TF graph"])
        assert record["ratio_to_fastest"]["median"] == pytest.approx(sparse / times[fastest])


def test_each_part_of_the_layer_is_timed_against_the_dense_mlp():
    (record,) = parts.measure(rounds=1, progress=lambda text: None, cases=CASES[2:]).records
    assert record["ratio"]["dense"]["median"] == 1
    for name, time in record["milliseconds"].items():
        ratio = time["median"] / record["milliseconds"]["dense"]["median"]
        assert record["ratio"][name]["median"] == pytest.approx(ratio)


def test_growth_is_held_against_the_fewest_experts_and_against_the_dense_layer():
    table = growth.measure(
        rounds=1, progress=lambda text: None, width=8, num_tokens=256, experts=(2, 4),
        num_experts=2, tokens=(256, 512),
    )  # fmt: skip
    sizes = [(record["tokens"], record["experts"]) for record in table.records]
    assert sizes == [(256, 2), (256, 4), (256, 2), (512, 2)]
    against = [record["against"].split(",")[0] for record in table.records]
    assert against == ["2 experts", "2 experts", "dense", "dense"]
    for record in table.records:
        own, other = record["milliseconds"], record["other_milliseconds"]
        assert record["ratio"]["median"] == pytest.approx(own["median"] / other["median"])
    # 256 tokens in x milliseconds are x / 256 million nanoseconds each.
    milliseconds, each = (float(cell) for cell in table.rows[0][2:4])
    assert each == pytest.approx(milliseconds * 1e6 / 256, rel=0.05)


def test_the_command_prints_a_markdown_table_and_writes_its_numbers(table, tmp_path, capsys):
    command.publish("sparse_layer", table, tmp_path / "new" / "folder")
    lines = capsys.readouterr().out.splitlines()
    assert any("Threads: " in line and "tensorflow 2." in line for line in lines)
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert len(cells) == 2 + len(table.records)
    assert {len(line) for line in cells} == {len(table.columns)}
    assert cells[2][:2] == ["256 x 8", "2"]
    written = json.loads((tmp_path / "new" / "folder" / "sparse_layer.json").read_text("utf-8"))
    assert written["rows"] == table.records
    assert written["environment"]["threads"] >= 1


def test_steps_take_turns_in_alternating_order_after_two_calls_to_warm_up():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.interleaved(steps, rounds=3, turn_seconds=0)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert times["a"].wall.shape == times["b"].processor.shape == (3,)


def test_a_spread_is_the_median_with_the_quartiles():
    assert timing.spread([5, 1, 4, 2, 3]) == {"median": 3, "low": 2, "high": 4}


def test_options_are_read_and_checked(capsys):
    assert command.read_options(["--rounds=3"]).rounds == 3
    assert command.read_options([]).only == list(command.TABLES)
    for wrong, message in (("--only=x", "invalid choice"), ("--rounds=0", "at least 1")):
        with pytest.raises(SystemExit):
            command.read_options([wrong])
        assert message in capsys.readouterr().err


def test_the_input_pipeline_is_compared_with_decoding_the_same_photographs(tmp_path):
    path = photographs.write_photographs(str(tmp_path / "few"), 8, height=40, width=64)
    table = input_pipeline.measure(
        rounds=1, progress=lambda text: None, data=path, count=8, window=8, batch_size=4
    )
    records = {record["form"]: record for record in table.records}
    assert records[input_pipeline.ALONE]["of_decoding"]["median"] == 1
    alone = records[input_pipeline.ALONE]["images_per_second"]["median"]
    for name in input_pipeline.WHOLE:
        rate = records[name]["images_per_second"]["median"]
        assert records[name]["of_decoding"]["median"] == pytest.approx(rate / alone)
    stages = [name for name in records if name.startswith("stage: ")]
    assert len(stages) == 7
    measured = {name for name, record in records.items() if record["decibels"] is not None}
    assert measured == set(input_pipeline.WAYS) - {input_pipeline.ANTIALIASED}


def test_a_made_photograph_takes_about_100_kilobytes(tmp_path):
    path = photographs.write_photographs(str(tmp_path / "one"), 1)
    assert 85_000 < (tmp_path / "one").stat().st_size < 120_000, path


def make_allocation(num_bytes):
    return functools.partial(np.ones, num_bytes, "uint8")


def test_a_train_step_is_compared_with_that_of_the_same_tower_without_experts():
    table = train_step.measure(rounds=1, progress=lambda text: None, cases=[TOY])
    dense, sparse = table.records
    assert (dense["experts"], sparse["experts"]) == (0, 5)
    assert dense["ratio"]["median"] == 1
    for of, ratio in (("milliseconds", "ratio"), ("processor_milliseconds", "processor_ratio")):
        expected = sparse[of]["median"] / dense[of]["median"]
        assert sparse[ratio]["median"] == pytest.approx(expected)
    assert all(record["gradients"]["median"] > 0 for record in table.records)
    # 4 pairs of 2 x 2 patches and 3 pieces.
    assert dense["tokens"] == sparse["tokens"] == 28
    # 4 experts more, each with two kernels and biases, and a router.
    more = 4 * (2 * 8 * 16 + 16 + 8) + 8 * 5
    assert sparse["parameters"] - dense["parameters"] == more
    assert all(0 < record["bytes"]["before"] < record["bytes"]["peak"] for record in table.records)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    json.dumps(table.records)


def test_the_memory_of_a_step_is_that_of_a_process_of_its_own():
    for_this_process_alone = np.ones(1_000_000_000, "uint8")
    taken = memory.of_steps(make_allocation, 100_000_000)
    assert len(for_this_process_alone) > taken["peak"]
    assert 80_000_000 < taken["peak"] - taken["before"] < 200_000_000


def test_fit_is_compared_with_a_loop_around_the_same_step():
    table = fit.measure(rounds=1, progress=lambda text: None, case=TOY)
    loop, fitted = table.records
    assert (loop["form"], fitted["form"]) == (fit.LOOP, fit.FIT)
    for of, ratio in (("milliseconds", "ratio"), ("processor_milliseconds", "processor_ratio")):
        assert fitted[ratio]["median"] == pytest.approx(fitted[of]["median"] / loop[of]["median"])
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_exported_models_are_called_with_batches_of_each_size():
    calls = {1: 3, 4: 0.5}
    table = inference.measure(rounds=2, progress=lambda text: None, case=TOY, calls=calls)
    counts = [(r["signature"], r["batch"], r["calls"]) for r in table.records]
    assert counts == [
        (signature, batch, count)
        for signature in ("encode_image", "encode_text")
        for batch, count in ((1, 6), (4, 1))
    ]
    for record in table.records:
        for spread in record["milliseconds"].values():
            assert 0 < spread["p50"] <= spread["p90"] <= spread["p99"]
        if record["calls"] == 1:
            milliseconds = {kind: spread["p50"] for kind, spread in record["milliseconds"].items()}
            ratio = milliseconds["sparse"] / milliseconds["dense"]
            assert record["ratio"]["median"] == pytest.approx(ratio)
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_models_that_are_compared_have_real_sizes():
    assert models.S16.tokens == 40 * (14 * 14 + 16)
    assert models.TINY.tokens == 128 * (8 * 8 + 16)
