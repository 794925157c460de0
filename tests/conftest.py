"""What every suite shares: skips that say why, and that fail in CI instead of hiding."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

IN_CI = os.environ.get("CI") == "true"

settings.register_profile(
    "hopseal", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=100
)
settings.load_profile("hopseal")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach; pytest's own are closed to them whenever another run of it starts."""
    with tempfile.TemporaryDirectory(prefix="hopseal-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def pytest_configure() -> None:
    """Let children be interrupted even if a shell put us in the background, where it ignores SIGINT for all of them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder they stand in."""
    for item in items:
        parts = item.path.parts
        if "process" in parts or "attacks" in parts:
            item.add_marker(pytest.mark.process)
        elif "real" in parts:
            item.add_marker(pytest.mark.real)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs root with the reason."""
    needs_root = any(item.iter_markers("process")) or any(item.iter_markers("real"))
    if needs_root and os.geteuid() != 0:
        pytest.skip("needs root: it creates namespaces and processes of other users")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """In CI a skipped test is a failed test, unless it is marked as out of reach on purpose."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
