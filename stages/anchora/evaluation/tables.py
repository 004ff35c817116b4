"""The comparison of two policies as rows of text, for the terminal, the report and the model card."""

from __future__ import annotations

from typing import NamedTuple

from anchora.evaluation.statistics import CONFIDENCE

HEADER = ("", "SFT", "UGRR", "difference", "95% interval")
TITLES = {"alpaca_eval": "AlpacaEval", "mt_bench": "MT-Bench"}


class Row(NamedTuple):
    """One metric of two policies, with cells in the order of ``HEADER``."""

    cells: tuple[str, str, str, str, str]
    shown: bool  # the data show a difference between the policies


def comparison_rows(evaluation: dict) -> list[Row]:
    """List the metrics that ``evaluation`` (of metrics/evaluation.json) has of both policies; sets that were not evaluated are left out."""
    gsm8k, calibration, drift = (evaluation[name] for name in ("gsm8k", "calibration", "drift"))
    exact_match = _row("exact match, greedy", gsm8k, "exact_match", "difference")
    rows = [
        exact_match._replace(shown=exact_match_differs(gsm8k)),
        _row("accuracy of samples", gsm8k, "sampled_accuracy", "sampled_difference"),
    ]
    for name, metrics in evaluation.items():
        if "win_rate" in metrics:
            title = TITLES.get(name, name.replace("_", " "))
            low, high = metrics["win_rate_low"], metrics["win_rate_high"]
            cells = ("0.500", f"{metrics['win_rate']:.3f}", f"{metrics['win_rate'] - 0.5:+.3f}", f"{low:.3f} to {high:.3f}")
            rows.append(Row((f"win rate, {title}", *cells), not low <= 0.5 <= high))
    for key, title in (("ece", "calibration error"), ("auroc", "AUROC of uncertainty"), ("coverage_at_5_risk", "coverage at 5% risk")):
        if calibration[key] is not None and calibration[f"baseline_{key}"] is not None:
            rows.append(_row(title, calibration, key, f"{key}_difference"))
    if drift:
        low, high = drift["kl_sequence_low"], drift["kl_sequence_high"]
        cells = ("0", f"{drift['kl_sequence']:.3f}", f"{drift['kl_sequence']:+.3f}", f"{low:.3f} to {high:.3f}")
        rows.append(Row(("drift, KL nats a sequence", *cells), not low <= 0 <= high))
    return rows


def exact_match_differs(gsm8k: dict) -> bool:
    """Tell whether exact match differs, by its interval and by McNemar's exact test: the interval of a few changes is too narrow."""
    return not gsm8k["difference_low"] <= 0 <= gsm8k["difference_high"] and gsm8k["p_value"] < 1 - CONFIDENCE


def headline(gsm8k: dict, baseline: str = "SFT", policy: str = "UGRR") -> str:
    """Say in one sentence what happened to exact match; it claims a difference only where the data show one."""
    points, low, high = (100 * gsm8k[key] for key in ("difference", "difference_low", "difference_high"))
    if not exact_match_differs(gsm8k):
        interval = f"95% interval {low:+.1f} to {high:+.1f}, p = {gsm8k['p_value']:.2g}"
        return f"No difference in exact match is shown ({points:+.1f} points, {interval})."
    word = "better" if points > 0 else "worse"
    return (
        f"{policy} is {word} than {baseline} by {abs(points):.1f} points of exact match (95% interval {low:+.1f} to {high:+.1f}, "
        f"p = {gsm8k['p_value']:.2g}; {gsm8k['newly_right']} newly right, {gsm8k['newly_wrong']} newly wrong)."
    )


def comparison(evaluation: dict, baseline: str = "SFT", policy: str = "UGRR") -> str:
    """Lay out the comparison for the terminal: the table, the sentence on exact match, and what shows no difference."""
    rows = comparison_rows(evaluation)
    table = text_table(("", baseline, policy, *HEADER[3:]), [row.cells for row in rows])
    not_shown = [row.cells[0] for row in rows[1:] if not row.shown]
    note = f"\nNo difference is shown in: {'; '.join(not_shown)}." if not_shown else ""
    return f"\n{table}\n\n{headline(evaluation['gsm8k'], baseline, policy)}{note}"


def summary_table(evaluation: dict) -> str:
    """Lay out the comparison for the end of a run, with commands to type next."""
    commands = ("open metrics/report.html", "dvc exp run -S seed=1", "dvc metrics diff --targets metrics/summary.json")
    return comparison(evaluation) + "\n\nnext:  " + "\n       ".join(commands)


def _row(title: str, metrics: dict, key: str, interval: str) -> Row:
    """Make the row of metric ``key``; ``interval`` names its difference, whose ``_low`` and ``_high`` may be None or missing."""
    baseline, policy = metrics[f"baseline_{key}"], metrics[key]
    low, high = metrics.get(f"{interval}_low"), metrics.get(f"{interval}_high")
    interval_text = "" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
    cells = (title, f"{baseline:.3f}", f"{policy:.3f}", f"{policy - baseline:+.3f}", interval_text)
    return Row(cells, low is not None and high is not None and not low <= 0 <= high)


def text_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Align the columns: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
