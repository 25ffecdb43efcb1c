"""Fits a pendulum's equation of motion to noisy angles, with standard errors of its parameters.

    python examples/physical_fit.py [--sets N] [--seed N] [--out FOLDER]

Model: θ'' = -ω² sin θ - γ θ' - δ |θ'| θ' (gravity, friction linear and square in the speed), integrated by the classical
Runge-Kutta method of fourth order in a `graphc.scan`, so that derivatives by ω, γ, δ and both starting values go through
the integration. They are found by least squares with L-BFGS (`graphc.minimize`), in f64.
Data: synthetic: 201 angles within 20 seconds of known parameters, each with normal noise of a known deviation of 0.02.
Result: parameters with standard errors from the Hessian of χ² / 2 and from JᵀJ (Gauss-Newton), where J is the Jacobian of
the residuals over the noise; χ² beside its degrees of freedom. Then, as a check of the errors, a few hundred data sets
with other noise are fitted in one compiled call by `graphc.vmap` of Gauss-Newton steps: the spread of their parameters
must be what the errors say. (W. Press et al., Numerical Recipes, chapter 15, Modeling of Data.)
Needs ``pip install graphc[plot]`` for the plot.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import graphc
from graphc import Array, linalg

NAMES = ("ω", "γ", "δ", "θ₀", "θ'₀")
TRUE = np.array([2.2, 0.05, 0.08, 1.9, 0.0])
START = np.array([2.0, 0.1, 0.0, 1.7, 0.0])
SECONDS, POINTS, SUBSTEPS = 20.0, 201, 5  # steps of the integration between two measurements
NOISE = 0.02
NEWTON_STEPS = 8


def acceleration(parameters: Array, angle: Array, speed: Array) -> Array:
    omega, linear, square = parameters[0], parameters[1], parameters[2]
    return -(omega**2) * graphc.sin(angle) - linear * speed - square * graphc.abs(speed) * speed


def angles(parameters: Array) -> Array:
    """The angle at each of the POINTS times, the first of them 0."""
    step = SECONDS / (POINTS - 1) / SUBSTEPS

    def slope(state: Array) -> Array:
        return graphc.stack([state[1], acceleration(parameters, state[0], state[1])])

    def advance(state: Array, _: None) -> tuple[Array, Array]:
        reached = state
        for _ in range(SUBSTEPS):
            k1 = slope(reached)
            k2 = slope(reached + step / 2 * k1)
            k3 = slope(reached + step / 2 * k2)
            k4 = slope(reached + step * k3)
            reached = reached + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return reached, state[0]

    _, found = graphc.scan(advance, parameters[3:], length=POINTS)
    return found


def residuals(parameters: Array, measured: Array) -> Array:
    """What the model leaves unexplained, in deviations of the noise."""
    return (angles(parameters) - measured) / NOISE


def half_chi_squared(parameters: Array, measured: Array) -> Array:
    """The negative logarithm of the likelihood, up to a constant."""
    return 0.5 * (residuals(parameters, measured) ** 2).sum()


def covariances(parameters: Array, measured: Array) -> tuple[Array, Array]:
    """Of the parameters: the inverse Hessian, and that of Gauss-Newton, which leaves the second derivatives out."""
    jacobian = graphc.jacobian(residuals)(parameters, measured)
    return linalg.inv(graphc.hessian(half_chi_squared)(parameters, measured)), linalg.inv(
        jacobian.T @ jacobian
    )


def gauss_newton(start: Array, measured: Array) -> Array:
    """The parameters after a few steps p - (JᵀJ)⁻¹ Jᵀ r, from a start close to the minimum."""

    def step(parameters: Array, _: None) -> tuple[Array, None]:
        jacobian = graphc.jacobian(residuals)(parameters, measured)
        change = linalg.solve(jacobian.T @ jacobian, jacobian.T @ residuals(parameters, measured))
        return parameters - change, None

    return graphc.scan(step, start, length=NEWTON_STEPS)[0]


def measure(sets: int, seed: int) -> np.ndarray:
    """[sets, POINTS]: the true angles, each time with other noise."""
    exact = graphc.compile(angles, TRUE)(TRUE)
    return exact + NOISE * np.random.default_rng(seed).normal(size=(sets, POINTS))


def plot(measured: np.ndarray, found: np.ndarray, fits: np.ndarray, errors: np.ndarray, path: Path) -> None:
    """Angles and curve, residuals below; on the right the spread of many fits beside the stated errors."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed (pip install graphc[plot])")
        return
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.titlesize": 10,
             "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8}  # fmt: skip
    times = np.linspace(0, SECONDS, POINTS)
    curve = graphc.compile(angles, found)(found)
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplot_mosaic(
            "aaac;aaad;bbbe", figsize=(10, 5.6), layout="constrained", height_ratios=(1, 1, 1)
        )
        axes["a"].errorbar(
            times,
            measured,
            yerr=NOISE,
            fmt="o",
            color="#808080",
            markersize=2.5,
            linewidth=0.7,
            label="measured",
        )
        axes["a"].plot(times, curve, color="#c2410c", linewidth=1.3, label="pendulum, fitted")
        axes["a"].set(title="A pendulum with friction", ylabel="θ", xlim=(-0.3, SECONDS + 0.3))
        axes["a"].legend(ncols=2, loc="upper right")
        axes["b"].axhspan(-1, 1, color="#c2410c", alpha=0.08, linewidth=0)
        axes["b"].axhline(0, color="#c2410c", linewidth=0.9)
        axes["b"].plot(times, (measured - curve) / NOISE, "o", color="#606060", markersize=2.5)
        axes["b"].set(ylabel="residual / σ", xlabel="seconds", xlim=(-0.3, SECONDS + 0.3), ylim=(-4, 4))
        for axis, number in zip((axes["c"], axes["d"], axes["e"]), range(3), strict=True):
            spread = np.linspace(-4, 4, 201)
            center, error = TRUE[number], errors[number]
            axis.hist(fits[:, number], bins=24, density=True, color="#b8c4d6")
            density = np.exp(-(spread**2) / 2) / (np.sqrt(2 * np.pi) * error)
            axis.plot(center + error * spread, density, color="#2563eb", linewidth=1.3)
            axis.axvline(found[number], color="#c2410c", linewidth=1.1)
            axis.set(yticks=[], xlim=(center - 4 * error, center + 4 * error))
            axis.set_title(NAMES[number], loc="center", fontsize=9)
            axis.grid(False)
        axes["c"].set_title(f"{len(fits)} fits, and what the errors say", fontsize=10)
        axes["c"].set_xlabel(NAMES[0])
        axes["d"].set_title("")
        axes["d"].set_xlabel(NAMES[1])
        axes["e"].set_title("")
        axes["e"].set_xlabel(NAMES[2])
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit a pendulum's equation of motion to noisy angles.")
    parser.add_argument(
        "--sets", type=int, default=400, help="data sets that check the errors (default: 400)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot (default: out)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    measured, *others = measure(1 + options.sets, options.seed)

    best = graphc.minimize(lambda p: half_chi_squared(p, measured), START, steps=500)
    found = np.asarray(best.x)
    by_hessian, by_gauss_newton = graphc.compile(covariances, found, measured)(found, measured)
    errors = np.sqrt(np.diag(by_hessian))
    freedom = POINTS - len(TRUE)
    print(
        f"{best.evaluations} evaluations of χ² and its gradient, {'converged' if best.converged else 'NOT CONVERGED'}"
    )
    print(f"χ² {2 * best.value:.1f} for {freedom} ± {np.sqrt(2 * freedom):.0f} degrees of freedom")

    many = graphc.vmap(gauss_newton, (None, 0))
    fits = graphc.compile(many, found, np.array(others))(found, np.array(others))
    print(f"{'':4}{'true':>8}{'fitted':>10}{'Hessian':>10}{'JᵀJ':>10}{f'spread of {len(fits)} fits':>22}")
    for number, name in enumerate(NAMES):
        print(
            f"{name:4}{TRUE[number]:8.4f}{found[number]:10.4f}{errors[number]:10.5f}"
            f"{np.sqrt(by_gauss_newton[number, number]):10.5f}{fits[:, number].std(ddof=1):22.5f}"
        )
    inside = np.abs(fits - TRUE) < np.sqrt(np.diag(by_gauss_newton))
    print(f"within one standard error of the truth: {inside.mean():.3f} of all parameters, 0.683 expected")
    plot(measured, found, fits, errors, options.out / "physical_fit.png")


if __name__ == "__main__":
    main()
