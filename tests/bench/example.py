"""A row of a result."""

from __future__ import annotations

from bench.rows import Costs, Row, Value, at_least

ROW = Row(
    suite="read",
    row="sequential",
    server="static",
    unit="MB/s",
    better="higher",
    cost_unit="GiB",
    ours=Value((1000.0, 1200.0, 900.0), (Costs(cpu_driver=1.5, cpu_all=2.25),) * 3),
    peers={"rclone plain": Value((250.0,))},
    limits={"null driver": Value((1250.0,))},
    targets=(at_least(2.5, "rclone"), at_least(0.9, "null driver")),
)
