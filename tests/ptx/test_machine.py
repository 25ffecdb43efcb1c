"""The interpreter runs what graphc emits: results of whole kernels, launches, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_samples import SAMPLES

from ptx.build import build, run
from ptx.samples import SAMPLES as BLOCK_SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_give_what_numpy_gives(name: str, rng: np.random.Generator) -> None:
    sample = SAMPLES[name]
    arguments = sample.arguments(rng)
    expected = sample.expected([a.copy() for a in arguments])
    result = run(build(sample.text), arguments, sample.scalars)[-1]
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", BLOCK_SAMPLES)
def test_kernels_of_blocks_and_threads_give_what_numpy_gives(name: str, rng: np.random.Generator) -> None:
    sample = BLOCK_SAMPLES[name]
    arguments = sample.arguments(rng)
    result = run(build(sample.text), arguments)[-1]
    np.testing.assert_allclose(
        result, sample.expected(arguments), rtol=sample.tolerance, atol=sample.tolerance
    )
