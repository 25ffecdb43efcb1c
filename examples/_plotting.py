"""How the examples draw: one style, and a plain word where matplotlib is not installed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": False,
    "legend.fontsize": 8, "figure.constrained_layout.use": True,
}  # fmt: skip
COLORS = ("#2a6f97", "#d1495b", "#edae49", "#5b8e7d", "#6d597a")


def styled_pyplot() -> ModuleType | None:
    """matplotlib's pyplot in the examples' style; nothing, and a line that says why, where it is not installed."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed (pip install graphc[plot])")
        return None
    pyplot.rcParams.update(STYLE)
    return pyplot


def save(pyplot: ModuleType, figure: object, path: Path) -> None:
    """Writes a figure to a file and says where it is."""
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    print(f"plot: {path}")
