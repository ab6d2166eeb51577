"""Reports get prefixes and are merged, and lose nothing on the way."""

import pytest
import tensorflow as tf

from limoe_tf import report
from limoe_tf.report import Report


def test_an_empty_report_has_no_entry_and_shares_nothing_with_the_next():
    first = report.empty()
    first.losses["z"] = 1.0
    assert report.empty() == Report({}, {})


def test_a_prefix_goes_before_every_name_and_changes_no_value():
    part = Report({"z": 1.0, "load": 2.0}, {"image/tokens": 3.0})
    named = report.prefixed("block_05", report.prefixed("moe", part))
    assert named == Report(
        {"block_05/moe/z": 1.0, "block_05/moe/load": 2.0}, {"block_05/moe/image/tokens": 3.0}
    )
    assert part == Report({"z": 1.0, "load": 2.0}, {"image/tokens": 3.0})


def test_merging_keeps_every_entry_in_order():
    parts = [Report({"a/z": 1.0}, {"a/tokens": 2.0}), report.empty(), Report({"b/z": 3.0}, {})]
    merged = report.merged(iter(parts))
    assert merged == Report({"a/z": 1.0, "b/z": 3.0}, {"a/tokens": 2.0})
    assert list(merged.losses) == ["a/z", "b/z"]
    assert parts[0].losses == {"a/z": 1.0}
    assert report.merged([]) == report.empty()


@pytest.mark.parametrize("field", ["losses", "metrics"])
def test_two_reports_with_one_name_are_refused(field):
    part = report.empty()._replace(**{field: {"z": 1.0, "load": 2.0}})
    other = report.empty()._replace(**{field: {"z": 1.0, "importance": 2.0}})
    with pytest.raises(ValueError, match=r"must not share names. Received: twice=\['z'\]"):
        report.merged([part, other])


def test_success_rates_of_a_stream_are_averaged_over_layers():
    metrics = {
        "block_01/image/success_rate_image": 0.5, "block_03/success_rate_image": 1.0,
        "block_01/pair/success_rate_pair_image": 0.25, "block_01/image/max_gate_image": 0.9,
    }  # fmt: skip
    part = Report({"success_rate_loss": 7.0}, {k: tf.constant(v) for k, v in metrics.items()})
    found = report.mean_success_rates(part)
    found = {name: float(value) for name, value in found.items()}
    assert found == {"success_rate_image": 0.75, "success_rate_pair_image": 0.25}
    assert report.mean_success_rates(report.empty()) == {}
