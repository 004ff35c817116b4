"""The comparison of two policies as rows of text, for the terminal and the report."""

from __future__ import annotations

from typing import NamedTuple

from anchora.evaluation.statistics import CONFIDENCE

HEADER = ("", "SFT", "UGRR", "difference", "95% interval")
TITLES = {"alpaca_eval": "AlpacaEval", "mt_bench": "MT-Bench"}


class Row(NamedTuple):
    """One figure of two policies, as ``HEADER`` names its cells, and whether a difference between them is shown."""

    cells: tuple[str, str, str, str, str]
    shown: bool


def comparison_rows(evaluation: dict) -> list[Row]:
    """Every figure that the evaluation has of both policies; sets that were not evaluated are left out."""
    gsm8k, calibration, drift = (evaluation[name] for name in ("gsm8k", "calibration", "drift"))
    exact_match = _row("exact match, greedy", gsm8k, "exact_match", "difference")
    rows = [
        exact_match._replace(shown=shows_exact_match(gsm8k)),
        _row("accuracy of samples", gsm8k, "sampled_accuracy", "sampled_difference"),
    ]
    for name, figures in evaluation.items():
        if "win_rate" in figures:
            title = TITLES.get(name, name.replace("_", " "))
            low, high = figures["win_rate_low"], figures["win_rate_high"]
            cells = ("0.500", f"{figures['win_rate']:.3f}", f"{figures['win_rate'] - 0.5:+.3f}", f"{low:.3f} to {high:.3f}")
            rows.append(Row((f"win rate, {title}", *cells), not low <= 0.5 <= high))
    for key, title in (("ece", "calibration error"), ("auroc", "AUROC of uncertainty"), ("coverage_at_5_risk", "coverage at 5% risk")):
        if calibration[key] is not None and calibration[f"baseline_{key}"] is not None:
            rows.append(_row(title, calibration, key, f"{key}_difference"))
    if drift:
        low, high = drift["kl_sequence_low"], drift["kl_sequence_high"]
        cells = ("0", f"{drift['kl_sequence']:.3f}", f"{drift['kl_sequence']:+.3f}", f"{low:.3f} to {high:.3f}")
        rows.append(Row(("drift, KL nats a sequence", *cells), not low <= 0 <= high))
    return rows


def shows_exact_match(gsm8k: dict) -> bool:
    """Whether exact match differs: by the interval, and by McNemar's exact test, for an interval of a few changes is too narrow."""
    return not gsm8k["difference_low"] <= 0 <= gsm8k["difference_high"] and gsm8k["p_value"] < 1 - CONFIDENCE


def headline(gsm8k: dict, baseline: str = "SFT", policy: str = "UGRR") -> str:
    """One sentence on exact match; it claims a difference only where one is shown."""
    points, low, high = (100 * gsm8k[key] for key in ("difference", "difference_low", "difference_high"))
    if not shows_exact_match(gsm8k):
        interval = f"95% interval {low:+.1f} to {high:+.1f}, p = {gsm8k['p_value']:.2g}"
        return f"No difference in exact match is shown ({points:+.1f} points, {interval})."
    word = "better" if points > 0 else "worse"
    return (
        f"{policy} is {word} than {baseline} by {abs(points):.1f} points of exact match (95% interval {low:+.1f} to {high:+.1f}, "
        f"p = {gsm8k['p_value']:.2g}; {gsm8k['newly_right']} newly right, {gsm8k['newly_wrong']} newly wrong)."
    )


def comparison(evaluation: dict, baseline: str = "SFT", policy: str = "UGRR") -> str:
    """The comparison as the terminal shows it."""
    rows = comparison_rows(evaluation)
    table = text_table(("", baseline, policy, *HEADER[3:]), [row.cells for row in rows])
    alike = [row.cells[0] for row in rows[1:] if not row.shown]
    note = f"\nNo difference is shown in: {'; '.join(alike)}." if alike else ""
    return f"\n{table}\n\n{headline(evaluation['gsm8k'], baseline, policy)}{note}"


def summary_table(evaluation: dict) -> str:
    """The comparison at the end of a run, with what to type next."""
    commands = ("open metrics/report.html", "dvc exp run -S seed=1", "dvc metrics diff --targets metrics/summary.json")
    return comparison(evaluation) + "\n\nnext:  " + "\n       ".join(commands)


def _row(title: str, figures: dict, key: str, interval: str) -> Row:
    before, after = figures[f"baseline_{key}"], figures[key]
    low, high = figures.get(f"{interval}_low"), figures.get(f"{interval}_high")
    shown = "" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
    cells = (title, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}", shown)
    return Row(cells, low is not None and high is not None and not low <= 0 <= high)


def text_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
