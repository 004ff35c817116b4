"""report: one page that shows what the run changed, and every regret case.

    python stages/report.py

Reads metrics, buffers and answers, writes metrics/report.html (self-contained: template, script and charts
come from stages/report_page) and metrics/model_card.md, and prints the summary table.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
from html import escape
from pathlib import Path

from anchora.evaluation.model_card import model_card
from anchora.evaluation.rounds import RoundsParams
from anchora.evaluation.tables import HEADER, comparison_rows, headline, summary_table
from anchora.run.files import new_file, read_json, read_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage

PAGE = Path("stages/report_page")


def main() -> None:
    params = read_params(RoundsParams)
    log_params(params)
    evaluation = read_json("metrics/evaluation.json")["evaluation"]
    rounds = [round_figures(entry.k) for entry in params.rounds]
    exported = read_json(Path(params.output_dir) / "ugrr_final" / "uncertainty.json")
    data = {
        "rounds": trade(rounds, exported, evaluation["rounds"]),
        "sources": sources(rounds),
        "reliability": {name: table(f"metrics/plots/reliability_{name}.csv") for name in ("sft", "ugrr")},
        "coverage": table("metrics/plots/risk_coverage.csv"),
        "auroc": auroc(evaluation["calibration"], list(rounds[0]["uncertainty"]["auroc"])),
        "gate": [table(f"metrics/gate/round{entry.k}.csv") for entry in params.rounds],
        "cases": cases([entry.k for entry in params.rounds]),
    }
    sentence, _, detail = headline(evaluation["gsm8k"]).partition(" (")
    parts = {
        "headline": escape(sentence.rstrip(".") + "."),
        "lead": escape(detail.rstrip(").").capitalize() + ".") if detail else "",
        "cards": cards(evaluation),
        "comparison": html_table((*HEADER, "shown?"), comparison_cells(evaluation)),
        "rounds": html_table(*round_table(rounds, evaluation["rounds"])),
        "selective": escape(selective(evaluation["selective"])),
        "licence": (PAGE / "chart.LICENSE.md").read_text(encoding="utf-8").replace("--", "- -"),
        "style": (PAGE / "style.css").read_text(encoding="utf-8"),
        "chart": (PAGE / "chart.umd.min.js").read_text(encoding="utf-8"),
        "script": (PAGE / "page.js").read_text(encoding="utf-8"),
        "data": packed(data),
    }
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    with new_file("metrics/report.html") as partial:
        partial.write_text(fill(page, parts), encoding="utf-8")
    with new_file("metrics/model_card.md") as partial:
        partial.write_text(model_card(evaluation, read_json(Path(params.output_dir) / "pins" / "policy.json")), encoding="utf-8")
    say(summary_table(evaluation))


def fill(page: str, parts: dict[str, str]) -> str:
    """``page`` with every ``{{name}}`` replaced, once: what is put in is not looked at again."""
    pieces = page.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled)


def packed(data: dict) -> str:
    """JSON, compressed and in base64: fifty thousand cases stay small, and no text of a model can close a tag."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def round_figures(k: int) -> dict:
    """What one round's stages measured."""
    return {
        "k": k,
        **{name: read_json(f"metrics/{name}/round{k}.json")[name][f"round{k}"] for name in ("uncertainty", "regret", "update")},
    }


def trade(rounds: list[dict], exported: dict, judged: dict) -> list[dict]:
    """KL to the SFT policy, and right answers and win rates on the calibration problems: of the SFT policy, then after every round."""
    kl = [0.0, *(entry["update"]["kl_saved"] for entry in rounds)]
    known = [correct for correct in exported["calibration_correct"] if correct is not None]
    greedy = [*(entry["uncertainty"]["exact_match"] for entry in rounds), sum(known) / len(known) if known else None]
    sampled = [*(entry["uncertainty"]["sampled_accuracy"] for entry in rounds), exported["calibration_sampled_accuracy"]]
    wins = [{"win_rate": 0.5, "ensemble_win_rate": 0.5}, *(judged[f"round{entry['k']}"] for entry in rounds)]  # against itself: all ties
    return [
        {"kl": x, "exact_match": y, "sampled_accuracy": z, "win_rate": won["win_rate"], "ensemble_win_rate": won["ensemble_win_rate"]}
        for x, y, z, won in zip(kl, greedy, sampled, wins, strict=True)
    ]


def sources(rounds: list[dict]) -> list[dict]:
    """Cases by where their chosen response comes from, a number for each round."""
    names = sorted({name for entry in rounds for name in entry["regret"]["by_source"]})
    return [{"name": name, "cases": [entry["regret"]["by_source"].get(name, 0) for entry in rounds]} for name in names]


def table(path: str) -> list[dict]:
    """A CSV file of numbers; what is empty is null."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]


def auroc(calibration: dict, signals: list[str]) -> list[dict]:
    """AUROC of the combined uncertainty and of each signal that the evaluation has, for both policies."""
    rows = [{"name": "combined", "ugrr": calibration["auroc"], "sft": calibration["baseline_auroc"]}]
    for name in signals:
        if f"auroc_{name}" in calibration:
            rows.append(
                {"name": name.replace("_", " "), "ugrr": calibration[f"auroc_{name}"], "sft": calibration.get(f"baseline_auroc_{name}")}
            )
    return rows


def cases(rounds: list[int]) -> list[dict]:
    """Every case of every round, highest regret first, with what the final policy says to its prompt."""
    final = {row["id"]: row["text"] for row in read_jsonl("data/responses/final.jsonl")}
    rows = []
    for k in rounds:
        for row in read_jsonl(f"data/regret_buffer/round{k}.jsonl"):
            if row["kind"] == "case":
                rejected = row["rejected"]
                rows.append(
                    {
                        "round": k, "source": row["source"], "regret": round(row["regret"], 4), "uncertainty": round(row["uncertainty"], 4),
                        "right": row["chosen_right"], "score": round(sum(rejected["scores"]) / len(rejected["scores"]), 4),
                        "prompt": row["prompt"][-1]["content"], "chosen": row["chosen"]["text"], "final": final.get(row["id"]),
                        "pieces": rejected["pieces"], "entropies": rejected["entropies"],
                    }
                )  # fmt: skip
    return sorted(rows, key=lambda row: -row["regret"])


def cards(evaluation: dict) -> str:
    """The few figures to see first: name, value, where it came from."""
    gsm8k, calibration, drift, alpaca = (evaluation.get(name, {}) for name in ("gsm8k", "calibration", "drift", "alpaca_eval"))
    shown = [
        ("exact match", f"{gsm8k['exact_match']:.3f}", f"from {gsm8k['baseline_exact_match']:.3f}"),
        ("accuracy of samples", f"{gsm8k['sampled_accuracy']:.3f}", f"from {gsm8k['baseline_sampled_accuracy']:.3f}"),
        ("newly right / wrong", f"{gsm8k['newly_right']} / {gsm8k['newly_wrong']}", f"of {gsm8k['examples']} problems"),
    ]
    if "win_rate" in alpaca:
        shown.append(
            ("win rate, AlpacaEval", f"{alpaca['win_rate']:.3f}", f"{alpaca['win_rate_low']:.3f} to {alpaca['win_rate_high']:.3f}")
        )
    if calibration["auroc"] is not None:
        before = calibration["baseline_auroc"]
        shown.append(("AUROC of uncertainty", f"{calibration['auroc']:.3f}", "" if before is None else f"from {before:.3f}"))
    if drift:
        shown.append(
            ("drift, nats a sequence", f"{drift['kl_sequence']:.3f}", f"{drift['kl_sequence_low']:.3f} to {drift['kl_sequence_high']:.3f}")
        )
    return "".join(
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd><dd class="from">{escape(origin)}</dd></div>'
        for name, value, origin in shown
    )


def comparison_cells(evaluation: dict) -> list[tuple[str, ...]]:
    """The rows of the comparison, each with whether a difference is shown."""
    return [(*row.cells, "yes" if row.shown else "no") for row in comparison_rows(evaluation)]


def selective(figures: dict) -> str:
    if not figures["calibration_answers"]:
        return "No answer of the calibration split is known: there is no threshold, and the policy answers everything."
    if figures["threshold"] is None:
        return f"No threshold keeps the error rate of the calibration split under {figures['target_risk']:.0%}: the policy always abstains."
    low, high, risk = figures["risk_low"], figures["risk_high"], figures["risk"]
    errs = "" if risk is None else f" and errs in {risk:.1%} of them ({low:.1%} to {high:.1%})"
    return (
        f"With the threshold that kept the calibration error rate under {figures['target_risk']:.0%}, the final policy answers "
        f"{figures['answered']:.1%} of these problems{errs}; it abstains from the rest (stages/ask.py)."
    )


def round_table(rounds: list[dict], judged: dict) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: what each round found and did."""
    header = ("round", "exact match before", "sampled", "AUROC", "cases", "anchors", "retired", "stopped at", "forward KL", "win rate")
    rows = []
    for entry in rounds:
        uncertainty, regret, update = entry["uncertainty"], entry["regret"], entry["update"]
        values = (
            entry["k"], uncertainty["exact_match"], uncertainty["sampled_accuracy"], uncertainty["auroc"]["combined"],
            regret["cases"], regret["anchors"], regret["retired"], update["stopped_at"],
            update["kl_saved"], judged[f"round{entry['k']}"]["win_rate"],
        )  # fmt: skip
        rows.append(tuple("–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    return header, rows


def html_table(header, rows) -> str:
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


if __name__ == "__main__":
    run_stage(main)
