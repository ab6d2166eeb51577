"""A small part of the damage that the benchmark does; as there, no promise may be broken."""

import pytest

from benchmarks import damage_records

COUNTS = {"records": 250, "shards": 10, "tars": 40}


@pytest.mark.parametrize("part", damage_records.PARTS)
def test_damaged_inputs_stop_nothing_and_are_used_or_named(part, tmp_path):
    measure, _ = damage_records.PARTS[part]
    result = measure(str(tmp_path), count=COUNTS[part], seed=1, say=print)
    assert result.faults == []
    assert result.inputs == COUNTS[part]


def test_a_process_that_is_ended_and_too_much_memory_are_faults(monkeypatch):
    monkeypatch.setattr(damage_records, "MOST_BYTES", 1000)
    result, costs = damage_records.run("tars", seed=0, count=1)
    assert costs["bytes"] > 1000 and "bytes of memory, more than 1,000" in result.faults[0]
