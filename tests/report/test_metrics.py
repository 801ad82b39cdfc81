"""metrics.jsonl has one whole line for each step, whatever happened."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treepo.report.run_log import MetricsLog


@given(num_lines=st.integers(0, 5), last_step=st.integers(-1, 4), torn=st.binary(max_size=6))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_log_ends_with_the_step(tmp_path, num_lines, last_step, torn):
    """Later lines and whatever stands behind the last line break are dropped; nothing before is touched."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.unlink(missing_ok=True)
    for step in range(num_lines):
        log.append(step, {"loss": 0.1 + step})
    before = log.path.read_bytes() if num_lines else b""
    log.path.write_bytes(before + torn)
    assert log.last_whole_step() == num_lines - 1
    if num_lines <= last_step:
        return
    log.cut(last_step)
    assert log.read() == [{"step": step, "loss": 0.1 + step} for step in range(last_step + 1)]
    assert before.startswith(log.path.read_bytes())
    log.append(last_step + 1, {})
    assert [m["step"] for m in log.read()] == list(range(last_step + 2))


def test_a_log_that_is_not_there_is_empty(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.cut(-1)
    assert log.read() == []


@pytest.mark.parametrize("line", [b'{"step": 1}', b'{"step": 2}\n', b"[1]\n", b"\xff\n", b"1\n"])
def test_a_line_that_is_not_the_steps_is_no_line(tmp_path, line):
    """A whole object without its line break is torn too: the next one would stand on the same line."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.write_bytes(json.dumps({"step": 0}).encode() + b"\n" + line)
    assert log.last_whole_step() == 0
