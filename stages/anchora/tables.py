"""The comparison of two policies as rows of text, for the terminal and the report."""

from __future__ import annotations

HEADER = ("", "SFT", "UGRR", "difference", "95% interval")
TITLES = {"alpaca_eval": "AlpacaEval", "mt_bench": "MT-Bench"}


def comparison_rows(evaluation: dict) -> list[tuple[str, ...]]:
    """Name, SFT, UGRR, difference, 95% interval; sets that were not evaluated are left out."""
    gsm8k, calibration, drift = (evaluation[name] for name in ("gsm8k", "calibration", "drift"))
    rows: list[tuple[str, ...]] = [
        _row("exact match, greedy", gsm8k, "exact_match", "difference"),
        _row("accuracy of samples", gsm8k, "sampled_accuracy", "sampled_difference"),
    ]
    for name, figures in evaluation.items():
        if "win_rate" in figures:
            title = TITLES.get(name, name.replace("_", " "))
            interval = f"{figures['win_rate_low']:.3f} to {figures['win_rate_high']:.3f}"
            rows.append((f"win rate, {title}", "0.500", f"{figures['win_rate']:.3f}", f"{figures['win_rate'] - 0.5:+.3f}", interval))
    for key, title in (("ece", "calibration error"), ("auroc", "AUROC of uncertainty"), ("coverage_at_5_risk", "coverage at 5% risk")):
        if calibration[key] is not None and calibration[f"baseline_{key}"] is not None:
            rows.append(_row(title, calibration, key, f"{key}_difference"))
    if drift:
        interval = f"{drift['kl_sequence_low']:.3f} to {drift['kl_sequence_high']:.3f}"
        rows.append(("drift, KL nats a sequence", "0", f"{drift['kl_sequence']:.3f}", f"{drift['kl_sequence']:+.3f}", interval))
    return rows


def shows_difference(row: tuple[str, ...]) -> bool:
    """Whether the interval of a row of ``comparison_rows`` leaves out no difference: 0, or a win rate of one half."""
    low, _, high = row[4].partition(" to ")
    none = 0.5 if row[0].startswith("win rate") else 0.0
    return bool(high) and not float(low) <= none <= float(high)


def headline(gsm8k: dict, baseline: str = "SFT", policy: str = "UGRR") -> str:
    """One sentence on exact match; it claims a difference only where the interval shows one."""
    points, low, high = (100 * gsm8k[key] for key in ("difference", "difference_low", "difference_high"))
    if low <= 0 <= high:
        return f"No difference in exact match is shown ({points:+.1f} points, 95% interval {low:+.1f} to {high:+.1f})."
    word = "better" if points > 0 else "worse"
    return (
        f"{policy} is {word} than {baseline} by {abs(points):.1f} points of exact match (95% interval {low:+.1f} to {high:+.1f}, "
        f"p = {gsm8k['p_value']:.2g}; {gsm8k['newly_right']} newly right, {gsm8k['newly_wrong']} newly wrong)."
    )


def comparison(evaluation: dict, baseline: str = "SFT", policy: str = "UGRR") -> str:
    """The comparison as the terminal shows it."""
    rows = comparison_rows(evaluation)
    table = text_table(("", baseline, policy, *HEADER[3:]), rows)
    alike = [row[0] for row in rows[1:] if not shows_difference(row)]
    note = f"\nNo difference is shown in: {'; '.join(alike)}." if alike else ""
    return f"\n{table}\n\n{headline(evaluation['gsm8k'], baseline, policy)}{note}"


def summary_table(evaluation: dict) -> str:
    """The comparison at the end of a run, with what to type next."""
    commands = ("open metrics/report.html", "dvc exp run -S seed=1", "dvc metrics diff --targets metrics/summary.json")
    return comparison(evaluation) + "\n\nnext:  " + "\n       ".join(commands)


def _row(title: str, figures: dict, key: str, interval: str) -> tuple[str, str, str, str, str]:
    before, after = figures[f"baseline_{key}"], figures[key]
    low, high = figures.get(f"{interval}_low"), figures.get(f"{interval}_high")
    shown = "" if low is None else f"{low:+.3f} to {high:+.3f}"
    return title, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}", shown


def text_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
