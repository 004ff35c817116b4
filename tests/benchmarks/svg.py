"""Figures of two plots side by side, as SVG files whose bytes follow from what is drawn."""

from __future__ import annotations

from pathlib import Path


def two_plots(name: str, size: tuple[float, float], **options):
    """Return pyplot, a figure and its two axes; ``name`` seeds the ids in the file."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = name
    from matplotlib import pyplot

    return pyplot, *pyplot.subplots(1, 2, figsize=size, **options)


def save(figure, axes, path: str | Path) -> None:
    """Write a figure with its legend on the right, and without the day."""
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
