"""What all tests share: reproducible hypothesis runs, a seeded generator, an environment without our variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from graphc.config import VARIABLES, config

if TYPE_CHECKING:
    from ptx.fake_driver import FakeCuda

# The same examples on every machine and every run; no deadline, because other processes share the machine's cores.
settings.register_profile(
    "reproducible",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh generator with the same seed for every test."""
    return np.random.default_rng(20240229)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No GRAPHC_* variable of the developer's shell reaches a test, and none that a test sets reaches the next."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRAPHC_VERIFY", "2")  # every stage is verified in every test
    monkeypatch.setenv("GRAPHC_CACHE", "off")  # a test that wants a cache names a folder of its own
    config.cache_clear()
    yield
    config.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A machine whose CUDA driver is a fake one, and that has compiled nothing yet."""
    from ptx.fake_driver import FakeCuda

    from graphc.runtime.cuda import device, driver

    fake = FakeCuda()
    monkeypatch.setattr(driver, "load_library", lambda: fake)
    monkeypatch.setattr("graphc.compiler._PROGRAMS", {})
    for cached in (driver.driver, device):
        cached.cache_clear()
    yield fake
    for cached in (driver.driver, device):
        cached.cache_clear()
