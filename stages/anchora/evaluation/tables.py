"""The comparison of two policies as rows of text, for the terminal, the report and the model card."""

from __future__ import annotations

from typing import NamedTuple

from anchora.evaluation.statistics import CONFIDENCE

HEADER = ("", "SFT", "UGRR", "difference", "95% interval")
TITLES = {"alpaca_eval": "AlpacaEval", "mt_bench": "MT-Bench"}


class Row(NamedTuple):
    """One metric of two policies, with cells in the order of ``HEADER``."""

    cells: tuple[str, str, str, str, str]
    p_value: float | None  # of an exact test of the difference, where there is one
    interval_shows: bool  # the interval leaves out what would be no difference

    @property
    def shown(self) -> bool:
        """Whether the data show a difference: by the interval, and by the exact test, for an interval of few rows is too narrow."""
        return self.interval_shows and self.p_value is not None and self.p_value < 1 - CONFIDENCE


def comparison_rows(evaluation: dict) -> list[Row]:
    """List the metrics that ``evaluation`` (of metrics/evaluation.json) has of both policies; sets that were not evaluated are left out."""
    gsm8k, calibration, drift = (evaluation[name] for name in ("gsm8k", "calibration", "drift"))
    rows = [
        _row("exact match, greedy", gsm8k, "exact_match", "difference", gsm8k["p_value"]),
        _row("accuracy of samples", gsm8k, "sampled_accuracy", "sampled_difference", gsm8k["sampled_p_value"]),
    ]
    for name, metrics in _own_sets(evaluation).items():
        if "win_rate" in metrics:
            title = TITLES.get(name, name.replace("_", " "))
            low, high = metrics["win_rate_low"], metrics["win_rate_high"]
            cells = ("0.500", f"{metrics['win_rate']:.3f}", f"{metrics['win_rate'] - 0.5:+.3f}", interval_text(low, high))
            rows.append(Row((f"win rate, {title}", *cells), metrics["win_rate_p_value"], not low <= 0.5 <= high))
    for key, title in (("ece", "calibration error"), ("auroc", "AUROC of uncertainty"), ("coverage_at_5_risk", "coverage at 5% risk")):
        if calibration[key] is not None and calibration[f"baseline_{key}"] is not None:
            rows.append(_row(title, calibration, key, f"{key}_difference", calibration.get(f"{key}_difference_p_value")))
    if drift:
        low, high = drift["kl_sequence_low"], drift["kl_sequence_high"]
        cells = ("0", f"{drift['kl_sequence']:.3f}", f"{drift['kl_sequence']:+.3f}", interval_text(low, high))
        rows.append(Row(("drift, KL nats a sequence", *cells), drift["kl_sequence_p_value"], not low <= 0 <= high))
    for task, found in evaluation.get("harness", {}).items():
        for metric, figures in found.items():
            lower = "" if figures["higher_is_better"] else ", lower is better"
            rows.append(_row(f"{task}, {metric}{lower}", figures, "score", "difference", figures["p_value"]))
    return rows


def _own_sets(evaluation: dict) -> dict[str, dict]:
    """Return the figures without those of lm-evaluation-harness, whose tasks may have any name, ``win_rate`` too."""
    return {name: metrics for name, metrics in evaluation.items() if name != "harness"}


def interval_text(low: float | None, high: float | None, form: str = "{:.3f}") -> str:
    """Return an interval as text; one of no width comes from values that are all alike, and says nothing of how far they spread."""
    if low is None or high is None:
        return ""
    return "no spread" if low == high else f"{form.format(low)} to {form.format(high)}"


def headline(gsm8k: dict, baseline: str = "SFT", policy: str = "UGRR") -> str:
    """Say in one sentence what happened to exact match; it claims a difference only where the data show one."""
    points, low, high = (100 * gsm8k[key] for key in ("difference", "difference_low", "difference_high"))
    interval = f"95% interval {low:+.1f} to {high:+.1f}" if low < high else "the same on every problem"
    if low <= 0 <= high or gsm8k["p_value"] >= 1 - CONFIDENCE:
        return f"No difference in exact match is shown ({points:+.1f} points, {interval}, p = {gsm8k['p_value']:.2g})."
    return (
        f"{policy} is {'better' if points > 0 else 'worse'} than {baseline} by {abs(points):.1f} points of exact match ({interval}, "
        f"p = {gsm8k['p_value']:.2g}; {gsm8k['newly_right']} newly right, {gsm8k['newly_wrong']} newly wrong)."
    )


def notes(evaluation: dict) -> list[str]:
    """Say in a sentence each what shows no difference, and how many replies of a judge behind an API could not be read."""
    not_shown = [
        f"{row.cells[0]} (p = {row.p_value:.2g})" if row.interval_shows and row.p_value is not None else row.cells[0]
        for row in comparison_rows(evaluation)[1:]
        if not row.shown
    ]
    sentences = [f"No difference is shown in: {'; '.join(not_shown)}."] if not_shown else []
    for name, metrics in _own_sets(evaluation).items():
        if metrics.get("malformed"):
            sentences.append(
                f"{TITLES.get(name, name)}: {metrics['malformed']} of {metrics['replies']} replies of the judge {metrics['judge']} "
                f"could not be read and are left out, such as: {metrics['malformed_example']}"
            )
    return sentences + harness_notes(evaluation.get("harness", {}))


def harness_notes(harness: dict) -> list[str]:
    """Say in a sentence each what the figures of lm-evaluation-harness's tasks do not say by themselves; none where there are no tasks."""
    sentences = [f"Questions of {', '.join(harness)} (lm-evaluation-harness) were not compared with the training data."] if harness else []
    for task, found in harness.items():
        figures = next(iter(found.values()))
        if figures["limit"]:
            sentences.append(f"{task}: the first {figures['questions']} questions alone (harness_limit), for a quick look.")
        if figures["cut_prompts"]:
            sentences.append(f"{task}: {figures['cut_prompts']} of {figures['questions']} prompts lost their beginning: too long.")
    return sentences


def comparison(evaluation: dict, baseline: str = "SFT", policy: str = "UGRR") -> str:
    """Lay out the comparison for the terminal: the table, the sentence on exact match, and the notes."""
    table = text_table(("", baseline, policy, *HEADER[3:]), [row.cells for row in comparison_rows(evaluation)])
    return "\n".join([f"\n{table}\n", headline(evaluation["gsm8k"], baseline, policy), *notes(evaluation)])


def summary_table(evaluation: dict) -> str:
    """Lay out the comparison for the end of a run, with commands to type next."""
    commands = ("open metrics/report.html", "dvc exp run -S seed=1", "dvc metrics diff --targets metrics/summary.json")
    return comparison(evaluation) + "\n\nnext:  " + "\n       ".join(commands)


def _row(title: str, metrics: dict, key: str, interval: str, p_value: float | None) -> Row:
    """Make the row of metric ``key``; ``interval`` names its difference, whose ``_low`` and ``_high`` may be None or missing."""
    baseline, policy = metrics[f"baseline_{key}"], metrics[key]
    low, high = metrics.get(f"{interval}_low"), metrics.get(f"{interval}_high")
    cells = (title, f"{baseline:.3f}", f"{policy:.3f}", f"{policy - baseline:+.3f}", interval_text(low, high, "{:+.3f}"))
    return Row(cells, p_value, low is not None and high is not None and not low <= 0 <= high)


def text_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Align the columns: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
