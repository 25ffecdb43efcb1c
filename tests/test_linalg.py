"""graphc.linalg: against NumPy in f64, identities, derivatives, edges, errors with the user's line, NumPy's own names."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import f32, f64, linalg
from graphc.errors import ArgumentError, DTypeError, ShapeError, TraceError
from graphc.gradcheck import check_grads
from graphc.ir.types import DType

Arrays = list[np.ndarray]


def noise(*shape: int) -> np.ndarray:
    """The same numbers for the same shape, whichever tests run."""
    return np.random.default_rng(shape).uniform(-1, 1, shape)


def general(*shape: int) -> np.ndarray:
    """Well-conditioned matrices without structure."""
    m, n = shape[-2:]
    return noise(*shape) + 2 * np.eye(m, n) * (-1) ** np.arange(n)


def positive(*shape: int) -> np.ndarray:
    x = noise(*shape)
    return x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1])


def symmetric(*shape: int) -> np.ndarray:
    """Eigenvalues at distances of about 1, of both signs."""
    base = np.linalg.qr(noise(*shape))[0]
    return base * (np.arange(shape[-1]) - 1.3) @ np.swapaxes(base, -1, -2)


def run(fn: Callable[..., object], *arrays: np.ndarray) -> Arrays:
    result = graphc.compile(fn, *arrays)(*arrays)
    return list(result) if isinstance(result, (tuple, list)) else [np.asarray(result)]


def one(fn: Callable[..., object], *arrays: np.ndarray) -> np.ndarray:
    (result,) = run(fn, *arrays)
    return result


def kronecker(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.kron(a, b)


def exponential(x: np.ndarray) -> np.ndarray:
    """By the series, after halving so often that it converges at once."""
    total = term = np.broadcast_to(np.eye(x.shape[-1]), x.shape)
    for k in range(1, 25):
        term = term @ x / 2**10 / k
        total = total + term
    return np.linalg.matrix_power(total, 2**10)


VALUES: dict[str, tuple[Callable[..., object], Callable[..., object], Arrays]] = {
    "cholesky": (linalg.cholesky, np.linalg.cholesky, [positive(2, 3, 5, 5)]),
    "cholesky upper": (lambda x: linalg.cholesky(x, upper=True), lambda x: np.linalg.cholesky(x).T, [positive(4, 4)]),
    "solve": (linalg.solve, np.linalg.solve, [general(3, 5, 5)[:, ::-1].copy(), general(3, 5, 2)]),
    "solve vector": (linalg.solve, np.linalg.solve, [general(4, 4), general(4, 4)[0]]),
    "solve, matrices broadcast": (linalg.solve, np.linalg.solve, [general(4, 4), general(3, 4, 2)]),
    "solve, sides broadcast": (linalg.solve, np.linalg.solve, [general(3, 1, 4, 4), general(2, 4, 2)]),
    "solve_triangular": (
        linalg.solve_triangular, lambda a, b: np.linalg.solve(np.triu(a), b), [general(2, 6, 6), general(2, 6, 3)]
    ),
    "solve_triangular lower, transposed": (
        lambda a, b: linalg.solve_triangular(a, b, lower=True, transpose=True),
        lambda a, b: np.linalg.solve(np.tril(a).T, b),
        [general(6, 6), general(6, 3)[:, 0].copy()],
    ),
    "solve_triangular unit": (
        lambda a, b: linalg.solve_triangular(a, b, unit_diagonal=True),
        lambda a, b: np.linalg.solve(np.triu(a, 1) + np.eye(6), b),
        [general(6, 6), general(6, 3)],
    ),
    "inv": (linalg.inv, np.linalg.inv, [general(2, 5, 5)]),
    "det": (linalg.det, np.linalg.det, [general(3, 4, 4)[:, ::-1].copy()]),
    "det of one number": (linalg.det, np.linalg.det, [general(1, 1)]),
    "slogdet": (linalg.slogdet, np.linalg.slogdet, [general(3, 5, 5)[:, ::-1].copy()]),
    "qr": (linalg.qr, np.linalg.qr, [general(2, 6, 4)]),
    "qr square": (linalg.qr, np.linalg.qr, [general(5, 5)]),
    "qr wide": (linalg.qr, np.linalg.qr, [general(3, 5)]),
    "qr complete": (lambda x: linalg.qr(x, mode="complete"), lambda x: np.linalg.qr(x, mode="complete"), [general(2, 6, 3)]),
    "qr complete wide": (lambda x: linalg.qr(x, mode="complete"), lambda x: np.linalg.qr(x, mode="complete"), [general(3, 5)]),
    "eigvalsh": (linalg.eigvalsh, np.linalg.eigvalsh, [symmetric(2, 6, 6)]),
    "eigvalsh of equal ones": (linalg.eigvalsh, np.linalg.eigvalsh, [np.ones((5, 5))]),
    "svdvals": (linalg.svdvals, lambda x: np.linalg.svd(x, compute_uv=False), [general(2, 4, 6)]),
    "lstsq": (linalg.lstsq, lambda a, b: np.linalg.lstsq(a, b, rcond=None)[0], [general(7, 3), general(7, 2)]),
    "lstsq wide, vector": (linalg.lstsq, lambda a, b: np.linalg.lstsq(a, b, rcond=None)[0], [general(3, 5), general(3, 3)[0]]),
    "pinv": (linalg.pinv, np.linalg.pinv, [general(2, 5, 3)]),
    "pinv wide": (linalg.pinv, np.linalg.pinv, [general(3, 5)]),
    "pinv of rank 1": (linalg.pinv, lambda x: np.linalg.pinv(x, rcond=1e-5), [np.outer([1.0, 2, 3], [2.0, -1])]),
    "matrix_rank": (linalg.matrix_rank, np.linalg.matrix_rank, [np.stack([general(3, 5), np.ones((3, 5)), np.zeros((3, 5))])]),
    "trace": (lambda x: linalg.trace(x, offset=1), lambda x: np.trace(x, 1, -2, -1), [general(2, 3, 4)]),
    "diagonal": (lambda x: linalg.diagonal(x, offset=-1), lambda x: np.diagonal(x, -1, -2, -1), [general(2, 3, 4)]),
    "cross": (lambda x, y: linalg.cross(x, y, axis=0), lambda x, y: np.cross(x, y, axis=0), [general(3, 4), general(3, 4)]),
    "cross, broadcast": (linalg.cross, np.cross, [general(2, 4, 3), general(4, 3)]),
    "kron": (linalg.kron, kronecker, [general(2, 3), general(3, 2)]),
    "kron of other ranks": (linalg.kron, kronecker, [general(2, 3)[0].copy(), general(2, 3, 2)]),
    "outer": (linalg.outer, np.outer, [general(3, 3)[0], general(4, 4)[0]]),
    "tensordot": (linalg.tensordot, np.tensordot, [general(2, 3, 4), general(3, 4)]),
    "vecdot": (linalg.vecdot, lambda x, y: (x * y).sum(-1), [general(2, 3), general(2, 3)]),
    "matmul": (linalg.matmul, np.matmul, [general(2, 3), general(3, 2)]),
    "matrix_transpose": (linalg.matrix_transpose, lambda x: np.swapaxes(x, -1, -2), [general(2, 3, 4)]),
    "matrix_power 5": (lambda x: linalg.matrix_power(x, 5), lambda x: np.linalg.matrix_power(x, 5), [general(2, 3, 3) / 2]),
    "matrix_power 0": (lambda x: linalg.matrix_power(x, 0), lambda x: np.linalg.matrix_power(x, 0), [general(2, 3, 3)]),
    "matrix_power -2": (lambda x: linalg.matrix_power(x, -2), lambda x: np.linalg.matrix_power(x, -2), [general(3, 3)]),
    "expm": (linalg.expm, exponential, [general(2, 4, 4)]),
    "expm of a large one": (linalg.expm, exponential, [symmetric(4, 4) * 4]),
    "expm of a small one": (linalg.expm, exponential, [general(3, 3) / 100]),
}  # fmt: skip
VALUES.update(
    {
        f"norm {order} {axis}": (
            lambda x, o=order, a=axis: linalg.norm(x, o, a, keepdims=True),
            lambda x, o=order, a=axis: np.linalg.norm(x, o, a, keepdims=True),
            [general(3, 4)],
        )
        for order, axis in [
            *((o, 1) for o in (None, 0, 1, 2, 3, -1, math.inf, -math.inf)),
            *((o, (1, 0)) for o in (None, "fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf)),
            (None, None),
        ]
    }
)


@pytest.mark.parametrize("dtype", [f32, f64], ids=repr)
@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_numpy_in_double_precision(name: str, dtype: DType) -> None:
    ours, numpy, arrays = VALUES[name]
    given = [a.astype(dtype.numpy) for a in arrays]
    got = run(ours, *given)
    want = numpy(*(a.astype(np.float64) for a in given))
    tolerance = 2e-5 if dtype is f32 else 2e-13
    scale = 60 if name == "expm of a large one" else 1
    for a, b in zip(got, want if isinstance(want, tuple) else [want], strict=True):
        assert a.shape == np.shape(b) and a.dtype == (np.int32 if name == "matrix_rank" else dtype.numpy)
        np.testing.assert_allclose(a, b, rtol=tolerance * scale, atol=tolerance)


SMOOTH = {
    **{k: v for k, v in VALUES.items() if k not in ("matrix_rank", "eigvalsh of equal ones", "pinv of rank 1", "norm 0 1")},
    "eigh": (linalg.eigh, None, [symmetric(2, 3, 3)]),
    "svd": (linalg.svd, None, [general(2, 4, 3)]),
    "svd wide": (linalg.svd, None, [general(2, 4)]),
    "pinv at rank 2": (
        lambda a, b: linalg.pinv(linalg.matmul(a, b), rtol=1e-9), None, [general(4, 2), general(2, 3)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_of_order_one_and_two_equal_finite_differences(name: str) -> None:
    ours, _, arrays = SMOOTH[name]
    check_grads(lambda *x: ours(*x), arrays, order=2, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("size", [2, 9, 17, 33])
def test_factors_of_every_size_multiply_to_the_matrix(size: int) -> None:
    """Around the sizes of vectors and of blocks of rows."""
    for dtype, tolerance in ((np.float32, 3e-5), (np.float64, 3e-13)):
        tall = general(size + 2, size) + size * np.eye(size + 2, size)
        spd, x = positive(size, size).astype(dtype), tall.astype(dtype)
        square, sides = x[:size], np.ones((size, 19), dtype)

        def everything(
            spd: graphc.Array, x: graphc.Array, square: graphc.Array, sides: graphc.Array
        ) -> object:
            lower = linalg.cholesky(spd)
            q, r = linalg.qr(x)
            whole, _ = linalg.qr(x, mode="complete")
            values, vectors = linalg.eigh(spd)
            u, s, vh = linalg.svd(x, full_matrices=False)
            return (
                lower, lower @ lower.T - spd, square @ linalg.solve(square, sides) - sides,
                q @ r - x, whole.T @ whole - np.eye(size + 2), r - graphc.tril(r, -1) - r,
                linalg.solve_triangular(lower, lower @ sides, lower=True) - sides,
                linalg.solve_triangular(lower, lower.T @ sides, lower=True, transpose=True) - sides,
                vectors * values @ vectors.T - spd, vectors.T @ vectors - np.eye(size),
                u * s @ vh - x, u.T @ u - np.eye(size), vh @ vh.T - np.eye(size),
            )  # fmt: skip

        lower, *zeros = run(everything, spd, x, square, sides)
        assert not np.triu(lower, 1).any() and (np.diagonal(lower) > 0).all()
        for position, zero in enumerate(zeros):
            assert np.abs(zero).max() < tolerance * size, position


def test_results_are_the_same_in_every_run_and_eigenvectors_have_the_stated_sign() -> None:
    x = symmetric(6, 6)
    compiled = graphc.compile(linalg.eigh, x)
    first, again = compiled(x), compiled(x)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    values, vectors = first
    assert (np.diff(values) > 0).all()
    for column in vectors.T:
        assert column[np.argmax(np.abs(column) >= 0.9 * np.abs(column).max())] > 0


# Edges


def test_a_matrix_that_is_not_positive_definite_gives_nan_from_the_bad_pivot_on() -> None:
    for bad in (0.0, -1.0, np.nan):
        lower = one(linalg.cholesky, np.diag([4.0, bad, 1.0]))
        assert lower[0].tolist() == [2, 0, 0] and lower[1:, 0].tolist() == [0, 0]
        assert np.isnan([lower[1, 1], lower[2, 1], lower[2, 2]]).all() and lower[1, 2] == 0


def test_a_singular_matrix_has_determinant_zero_and_no_finite_solution() -> None:
    for singular in (np.zeros((3, 3)), np.diag([1.0, 0, 2]), np.ones((3, 3))):
        sign, log = run(linalg.slogdet, singular)
        assert sign == 0 and log == -math.inf and one(linalg.det, singular) == 0
        solution = one(linalg.solve, singular, np.arange(1.0, 7).reshape(3, 2))
        assert not np.isfinite(solution).all(axis=0).any()
        assert not np.isfinite(one(linalg.inv, singular)).all()


def test_pivots_pass_over_nan_and_never_leave_the_matrix() -> None:
    x = np.full((5, 5), np.nan)
    assert np.isnan(one(linalg.det, x)) and np.isnan(one(linalg.inv, x)).all()
    x = general(5, 5)
    x[0, 0] = np.nan
    assert np.isnan(one(linalg.solve, x, np.ones(5))).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 4])
def test_what_is_not_finite_makes_eigenvalues_and_singular_values_nan(bad: float, size: int) -> None:
    x = np.stack([symmetric(size, size)] * 2)
    x[1, size - 1, 0] = bad
    for fn in (linalg.eigh, linalg.svd):
        for result in run(fn, x):
            assert np.isfinite(result[0]).all() and np.isnan(result[1]).all()


def test_bases_are_orthonormal_whatever_the_rank() -> None:
    for x in (np.zeros((5, 3)), np.ones((5, 3)), np.outer(np.arange(5.0), [1, 2, 3]), np.eye(5, 3)):
        q, r = run(lambda x: linalg.qr(x, mode="complete"), x)
        np.testing.assert_allclose(q.T @ q, np.eye(5), atol=1e-14)
        np.testing.assert_allclose(q @ r, x, atol=1e-14)
        u, s, vh = run(linalg.svd, x)
        np.testing.assert_allclose(u.T @ u, np.eye(5), atol=1e-14)
        np.testing.assert_allclose(u[:, :3] * s @ vh, x, atol=1e-14)
        np.testing.assert_allclose(s, np.linalg.svd(x, compute_uv=False), atol=1e-14)


def test_small_singular_values_keep_their_digits() -> None:
    values = np.array([1.0, 1e-6, 1e-12])
    x = np.linalg.qr(noise(4, 3))[0] * values  # columns of such lengths
    np.testing.assert_allclose(one(linalg.svdvals, x), values, rtol=1e-10)


def test_stacks_without_matrices_and_matrices_without_elements() -> None:
    assert one(linalg.cholesky, np.zeros((0, 3, 3))).shape == (0, 3, 3)
    assert one(linalg.solve, np.zeros((2, 0, 0)), np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert one(linalg.det, np.zeros((2, 0, 0))).tolist() == [1, 1]
    assert [a.shape for a in run(linalg.qr, np.zeros((3, 0)))] == [(3, 0), (0, 0)]
    assert [a.shape for a in run(linalg.eigh, np.zeros((0, 2, 2)))] == [(0, 2), (0, 2, 2)]
    assert one(linalg.svdvals, np.zeros((0, 2))).shape == (0,)
    assert one(linalg.pinv, np.zeros((0, 2))).shape == (2, 0)
    assert one(linalg.matrix_rank, np.zeros((3, 0, 2))).tolist() == [0, 0, 0]
    assert one(linalg.expm, np.zeros((0, 0))).shape == (0, 0)


def test_integers_become_floats() -> None:
    got = one(linalg.inv, np.array([[2, 0], [0, 4]], np.int32))
    assert got.dtype == np.float32 and got.tolist() == [[0.5, 0], [0, 0.25]]


def test_a_norm_s_derivative_at_zero_is_zero_and_large_norms_of_expm_give_nan() -> None:
    assert one(graphc.grad(linalg.vector_norm), np.zeros(3)).tolist() == [0, 0, 0]
    assert one(graphc.grad(lambda x: linalg.vector_norm(x, ord=3)), np.zeros(3)).tolist() == [0, 0, 0]
    assert np.isnan(one(linalg.expm, np.full((2, 2), 1e6))).all()


def test_derivatives_of_functions_of_equal_eigenvalues_are_finite() -> None:
    """A sum over all eigenvalues has a derivative at the identity though single ones have none."""
    got = one(graphc.grad(lambda x: graphc.sum(linalg.eigvalsh(x) ** 3)), np.eye(3))
    np.testing.assert_allclose(got, 3 * np.eye(3), atol=1e-14)
    got = one(graphc.grad(lambda x: linalg.matrix_norm(x, ord="nuc")), np.diag([2.0, 2.0]))
    np.testing.assert_allclose(got, np.eye(2), atol=1e-14)


# Uses


def test_gaussian_process_likelihood_and_its_gradient() -> None:
    x, y = np.linspace(0, 1, 9), np.sin(np.linspace(0, 3, 9))

    def likelihood(length: graphc.Array, noise: graphc.Array) -> graphc.Array:
        kernel = graphc.exp(-(((x[:, None] - x) / length) ** 2) / 2) + noise * np.eye(9)
        factor = linalg.cholesky(kernel)
        alpha = linalg.solve_triangular(factor, y, lower=True)
        return -0.5 * linalg.vecdot(alpha, alpha) - graphc.sum(graphc.log(linalg.diagonal(factor)))

    def exact(length: float, noise: float) -> float:
        kernel = np.exp(-(((x[:, None] - x) / length) ** 2) / 2) + noise * np.eye(9)
        return float(-0.5 * y @ np.linalg.solve(kernel, y) - 0.5 * np.linalg.slogdet(kernel)[1])

    at = (np.float64(0.5), np.float64(0.1))
    value, slopes = graphc.compile(graphc.value_and_grad(likelihood, (0, 1)), *at)(*at)
    step = 1e-6
    want = [(exact(0.5 + step, 0.1) - exact(0.5 - step, 0.1)) / (2 * step),
            (exact(0.5, 0.1 + step) - exact(0.5, 0.1 - step)) / (2 * step)]  # fmt: skip
    np.testing.assert_allclose(value, exact(0.5, 0.1), rtol=1e-12)
    np.testing.assert_allclose(slopes, want, rtol=1e-7)


def test_least_squares_by_three_ways_and_a_natural_gradient_step() -> None:
    x, y = general(20, 4), noise(20)

    def ways(x: graphc.Array, y: graphc.Array) -> object:
        return linalg.lstsq(x, y), linalg.solve(x.T @ x, x.T @ y), linalg.pinv(x) @ y

    for way in run(ways, x, y):
        np.testing.assert_allclose(way, np.linalg.lstsq(x, y, rcond=None)[0], rtol=1e-10)

    def natural(w: graphc.Array, x: graphc.Array, y: graphc.Array) -> graphc.Array:
        """Newton's step on squares: it ends where the least squares are."""
        slope = graphc.grad(lambda w: 0.5 * graphc.sum((x @ w - y) ** 2))(w)
        return w - linalg.solve(x.T @ x, slope)

    step = one(natural, np.zeros(4), x, y)
    np.testing.assert_allclose(step, np.linalg.lstsq(x, y, rcond=None)[0], rtol=1e-10)


# Errors


def bad_line(fn: Callable[..., object]) -> str:
    """The file and line of the lambda, which stands on one line."""
    return f"{inspect.getsourcefile(fn)}:{fn.__code__.co_firstlineno}: "


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (lambda x: linalg.cholesky(x), ShapeError, "linalg.cholesky: expected square matrices, got f32[2,3]"),
        (lambda x: linalg.inv(x), ShapeError, "linalg.inv: expected square matrices, got f32[2,3]"),
        (lambda x: linalg.det(x[0]), ShapeError, "linalg.det: expected matrices in the last two dimensions, got f32[3]"),
        (lambda x: linalg.eigh(x), ShapeError, "linalg.eigh: expected square matrices, got f32[2,3]"),
        (lambda x: linalg.svd(x[0]), ShapeError, "linalg.svd: expected matrices in the last two dimensions"),
        (lambda x: linalg.solve(np.eye(3), x), ShapeError, "linalg.solve: expected right sides with 3 rows, as f64[3,3]"),
        (lambda x: linalg.solve(np.eye(3), 1.0), ShapeError, "expected right sides of rank 1 or more, got f64[]"),
        (lambda x: linalg.lstsq(x, np.ones(3)), ShapeError, "linalg.lstsq: expected right sides with 2 rows"),
        (lambda x: linalg.qr(x, mode="raw"), ArgumentError, "mode: expected 'reduced' or 'complete', got 'raw'"),
        (lambda x: linalg.matrix_norm(x, ord=3), ArgumentError, "ord: expected 'fro', 'nuc', 1, -1, 2, -2, inf or -inf"),
        (lambda x: linalg.vector_norm(x, ord="fro"), ArgumentError, "ord: expected a number, got 'fro'"),
        (lambda x: linalg.norm(x[None], axis=(0, 1, 2)), ShapeError, "linalg.norm: expected one axis or two"),
        (lambda x: linalg.cross(x, x, axis=0), ShapeError, "linalg.cross: expected 3 elements along axis 0"),
        (lambda x: linalg.matrix_power(x, 2), ShapeError, "linalg.matrix_power: expected square matrices"),
        (lambda x: linalg.matrix_power(x[:, :2], 0.5), TraceError, "n: expected a Python int, got float"),
        (lambda x: linalg.inv(np.eye(2) * 1j), DTypeError, "expected one of .*, got complex128"),
        (lambda x: np.linalg.inv(x), ShapeError, "linalg.inv: expected square matrices"),
        (lambda x: np.linalg.eig(x), TraceError, "numpy.eig: expected a function that can be traced, got numpy.eig"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_error_with_the_user_s_line(
    fn: Callable[..., object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message.replace("[", r"\[").replace("(", r"\(")) as caught:
        graphc.trace(fn, f32[2, 3])
    assert str(caught.value).startswith(bad_line(fn))


# NumPy's own functions


def test_numpy_s_functions_work_on_traced_arrays() -> None:
    a, b = positive(4, 4), general(4, 2)

    def ours(a: graphc.Array, b: graphc.Array) -> object:
        values, vectors = np.linalg.eigh(a)
        u, s, vh = np.linalg.svd(b)
        x, residuals, rank, sizes = np.linalg.lstsq(b, a, rcond=None)
        return (
            np.linalg.cholesky(a), np.linalg.solve(a, b), np.linalg.inv(a), np.linalg.det(a), np.linalg.slogdet(a)[1],
            np.linalg.qr(b)[1], np.linalg.qr(b, "complete")[0], np.linalg.qr(b, mode="r"), np.linalg.norm(b, axis=1),
            np.linalg.matrix_power(a, 3), np.linalg.matrix_rank(b), np.linalg.pinv(b), np.linalg.eigvalsh(a),
            vectors * values @ vectors.T, u[:, :2] * s @ vh, np.linalg.svd(b, compute_uv=False), np.kron(a, b),
            x, residuals, rank, sizes, np.linalg.eigvalsh(np.triu(a), UPLO="U"), np.linalg.cholesky(np.tril(a)),
        )  # fmt: skip

    def theirs() -> Arrays:
        x, residuals, rank, sizes = np.linalg.lstsq(b, a, rcond=None)
        return [
            np.linalg.cholesky(a), np.linalg.solve(a, b), np.linalg.inv(a), np.linalg.det(a), np.linalg.slogdet(a)[1],
            np.linalg.qr(b)[1], np.linalg.qr(b, "complete")[0], np.linalg.qr(b, mode="r"), np.linalg.norm(b, axis=1),
            np.linalg.matrix_power(a, 3), np.linalg.matrix_rank(b), np.linalg.pinv(b), np.linalg.eigvalsh(a),
            a, b, np.linalg.svd(b, compute_uv=False), np.kron(a, b),
            x, residuals, rank, sizes, np.linalg.eigvalsh(a), np.linalg.cholesky(a),
        ]  # fmt: skip

    for position, (got, want) in enumerate(zip(run(ours, a, b), theirs(), strict=True)):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12, err_msg=str(position))
