"""CPython's own tests in a mounted container give what they give in a local directory."""

from __future__ import annotations

import pytest

from tests.suites.cpython import EXPECTED, MODULES, run_module

pytestmark = pytest.mark.integration

#: Seconds for one module: the longest lists directories a thousand times.
LIMIT = 600


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("module", MODULES)
def test_cpython(top, tmp_path, module):
    for name in ("local", "reports"):
        (tmp_path / name).mkdir()
    (top / "work").mkdir()
    local = run_module(module, tmp_path / "local", tmp_path / "reports" / "l", timeout=LIMIT)
    ours = run_module(module, top / "work", tmp_path / "reports" / "o", timeout=LIMIT)
    expected = {name for name in EXPECTED if name.startswith(f"{module}.")}

    assert local.passed, local.log
    surprising = [
        f"{name}: {ours.failed.get(name, 'skipped or not run')}"
        for name in sorted(local.passed - ours.passed - expected)
    ]
    assert not surprising, "\n".join([*surprising, "", ours.log])
    assert not expected & ours.passed, "these pass now: take them out of EXPECTED"
    assert expected <= local.passed | local.skipped, "these fail in a local directory too"
