"""report: one page that shows what the run changed.

    python stages/report.py

Reads the metrics and the last regret buffer, writes metrics/report.html and prints the summary table.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from anchora.files import new_file, read_json, read_jsonl
from anchora.params import read_params
from anchora.stage import log_params, run_stage, say
from anchora.tables import HEADER, comparison_rows, headline, summary_table
from parameters.report import ReportParams

SHOWN_CASES = 200

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.text { max-width: 24rem; }
"""


def main() -> None:
    params = read_params(ReportParams)
    log_params(params, params.log_dir)
    evaluation = read_json("metrics/evaluation.json")["evaluation"]
    rounds = [entry.k for entry in params.rounds]
    buffer = read_jsonl(f"data/regret_buffer/round{rounds[-1]}.jsonl")
    cases = sorted((row for row in buffer if row["kind"] == "case"), key=lambda row: -row["regret"])
    answers = {row["id"]: row for row in read_jsonl(Path(params.output_dir) / "evaluation" / "gsm8k.jsonl")}
    sections = [
        f"<h1>Anchora: SFT against UGRR</h1><p>{escape(headline(evaluation['gsm8k']))}</p>",
        html_table(HEADER, comparison_rows(evaluation)),
        "<h2>Rounds</h2>" + html_table(*round_table(rounds)),
        f"<h2>Regret cases</h2><p>The {min(SHOWN_CASES, len(cases))} of largest regret among {len(cases)}.</p>" + case_table(cases),
        "<h2>Newly right and newly wrong</h2>" + changed_table(answers.values()),
    ]
    body = "\n".join(sections)
    with new_file("metrics/report.html") as partial:
        partial.write_text(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Anchora report</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
            f"<body>{body}</body></html>\n",
            encoding="utf-8",
        )
    say(summary_table(evaluation))


def round_table(rounds: list[int]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: what each round found and did."""
    header = ("round", "exact match before", "sampled", "AUROC", "cases", "anchors", "retired", "forward KL", "stopped at")
    rows = []
    for k in rounds:
        uncertainty = read_json(f"metrics/uncertainty/round{k}.json")["uncertainty"][f"round{k}"]
        regret = read_json(f"metrics/regret/round{k}.json")["regret"][f"round{k}"]
        update = read_json(f"metrics/update/round{k}.json")["update"][f"round{k}"]
        values = (
            k, uncertainty["exact_match"], uncertainty["sampled_accuracy"], uncertainty["auroc"]["combined"],
            regret["cases"], regret["anchors"], regret["retired"], update["kl_forward"], update["stopped_at"],
        )  # fmt: skip
        rows.append(tuple("–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    return header, rows


def html_table(header, rows) -> str:
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f'<td class="{"number" if i else "name"}">{escape(cell)}</td>' for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def case_table(cases: list[dict]) -> str:
    rows = [
        (
            f"{row['regret']:.2f}", f"{row['uncertainty']:.2f}", row["prompt"][-1]["content"],
            row["chosen"]["text"], row["rejected"]["text"],
        )
        for row in cases[:SHOWN_CASES]
    ]  # fmt: skip
    return texts_table(("regret", "uncertainty", "prompt", "chosen", "rejected"), rows)


def changed_table(answers) -> str:
    changed = [row for row in answers if row["policy_correct"] != row["baseline_correct"]]
    rows = [
        ("right" if row["policy_correct"] else "wrong", row["prompt"][-1]["content"], row["baseline"], row["policy"])
        for row in sorted(changed, key=lambda row: (row["policy_correct"], row["id"]))[:SHOWN_CASES]
    ]
    return texts_table(("now", "prompt", "SFT", "UGRR"), rows)


def texts_table(header, rows) -> str:
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f'<td class="text">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


if __name__ == "__main__":
    run_stage(main)
