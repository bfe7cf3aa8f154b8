"""Tests on a real kernel: see docs/kernel-tests.md.

A test module names its scenario in SCENARIO; the fixture `scenario` is what the one boot of it reported. A module
with KERNELS has each of its tests once for each of them: "uml", or one that QEMU boots; others use User Mode Linux. The scenarios that the
selected tests need are booted two at a time, when the first test asks.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import NoReturn, cast

import pytest
from _pytest.capture import CaptureManager

from tests.kernel import machine

Boot = tuple[str, machine.Kernel]
"""A scenario, and the kernel that runs it."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests on real kernels out unless -m asks for them: they need root, and minutes."""
    if "kernel" in (config.getoption("markexpr") or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("kernel")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("kernel")]


def _cannot_run(reason: str) -> NoReturn:
    """Skip; but where CI=true these tests decide whether a change lands, and must run."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run these tests: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module with KERNELS for each of these."""
    kernels = getattr(metafunc.module, "KERNELS", None)
    if kernels and "scenario" in metafunc.fixturenames:
        ids = [f"linux-{kernel}" for kernel in kernels]
        metafunc.parametrize("scenario", kernels, indirect=True, scope="module", ids=ids)


def _boot_for(item: pytest.Item) -> Boot | None:
    """Return what must be booted for a test: a scenario and a kernel."""
    if not isinstance(item, pytest.Function) or "scenario" not in item.fixturenames:
        return None
    callspec = getattr(item, "callspec", None)  # (none, if the test has no parameters)
    kernel = callspec.params.get("scenario", "uml") if callspec else "uml"
    return getattr(item.module, "SCENARIO", ""), cast("machine.Kernel", kernel)


@pytest.fixture(scope="session")
def needed(request: pytest.FixtureRequest) -> list[Boot]:
    """What the selected tests are about, each once."""
    return list(dict.fromkeys(boot for boot in map(_boot_for, request.session.items) if boot))


@pytest.fixture(scope="session")
def guest(pytestconfig: pytest.Config, needed: list[Boot]) -> None:
    """The guest's root, built by the first run and then cached."""
    qemu = any(kernel != "uml" for _, kernel in needed)
    reason = machine.missing_prerequisite(qemu=qemu)
    if reason is None:
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        shown = (
            capture.global_and_fixture_disabled() if isinstance(capture, CaptureManager) else nullcontext()
        )
        with shown:  # (the progress of the build)
            reason = machine.build(qemu=qemu)
    if reason is not None:
        _cannot_run(reason)


@pytest.fixture(scope="session")
def boots(needed: list[Boot], guest: None) -> Iterator[dict[Boot, Future[machine.Scenario]]]:
    """One boot for each scenario and kernel that a selected test is about."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {boot: pool.submit(machine.boot, *boot) for boot in needed}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def scenario(request: pytest.FixtureRequest, boots: dict[Boot, Future[machine.Scenario]]) -> machine.Scenario:
    """What the boot of the module's SCENARIO reported."""
    kernel = cast("machine.Kernel", getattr(request, "param", "uml"))
    return boots[request.module.SCENARIO, kernel].result()
