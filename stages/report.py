"""report: one page that shows what the run changed, and every regret case.

    python stages/report.py

Reads metrics, regret buffers and responses. Writes metrics/report.html (self-contained: template, script and charts
come from stages/report_page) and metrics/model_card.md, and prints the summary table.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

import yaml

from anchora.evaluation.abstention import guarantee
from anchora.evaluation.model_card import model_card
from anchora.evaluation.rounds_params import RoundsParams
from anchora.evaluation.tables import HEADER, comparison_rows, headline, interval_text, notes, summary_table
from anchora.run.files import new_file, read_json, read_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage

PAGE = Path("stages/report_page")


def main() -> None:
    params = read_params(RoundsParams)
    log_params(params)
    evaluation = read_json("metrics/evaluation.json")["evaluation"]
    rounds = [round_metrics(entry.k) for entry in params.rounds]
    exported = read_json(Path(params.output_dir) / "ugrr_final" / "uncertainty.json")
    data = {
        "rounds": accuracy_against_kl(rounds, exported, evaluation["rounds"]),
        "sources": cases_by_origin(rounds),
        "reliability": {name: read_csv(f"metrics/plots/reliability_{name}.csv") for name in ("sft", "ugrr")},
        "coverage": read_csv("metrics/plots/risk_coverage.csv"),
        "auroc": auroc_by_signal(evaluation["calibration"], list(rounds[0]["uncertainty"]["auroc"])),
        "gate": [read_csv(f"metrics/gate/round{entry.k}.csv") for entry in params.rounds],
        "cases": regret_cases([entry.k for entry in params.rounds]),
    }
    claim, _, detail = headline(evaluation["gsm8k"]).partition(" (")
    parts = {
        "headline": escape(claim.rstrip(".") + "."),
        "lead": escape(detail.rstrip(").").capitalize() + ".") if detail else "",
        "cards": metric_cards(evaluation),
        "comparison": html_table((*HEADER, "p", "shown?"), comparison_cells(evaluation)),
        "notes": notes_html(evaluation),
        "rounds": html_table(*round_table(rounds, evaluation["rounds"])),
        "selective": escape(abstention_text(evaluation["selective"])),
        "licence": (PAGE / "chart.LICENSE.md").read_text(encoding="utf-8").replace("--", "- -"),
        "style": (PAGE / "style.css").read_text(encoding="utf-8"),
        "chart": (PAGE / "chart.umd.min.js").read_text(encoding="utf-8"),
        "script": (PAGE / "page.js").read_text(encoding="utf-8"),
        "data": packed_json(data),
    }
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    with new_file("metrics/report.html") as partial:
        partial.write_text(fill(page, parts), encoding="utf-8")
    pin = read_json(Path(params.output_dir) / "pins" / "policy.json")
    exported_as, splits = read_json("metrics/export.json")["export"], read_json("metrics/data.json")["data"]["splits"]
    card = model_card(evaluation, pin, exported_as, splits, licence_of(pin.get("base", pin)))
    with new_file("metrics/model_card.md") as partial:
        partial.write_text(card, encoding="utf-8")
    say(summary_table(evaluation))


def licence_of(pin: dict) -> str | None:
    """Return the licence that a pinned model's own card names in its header; of a hub model's, where it is in the hub's cache.

    A header may name several, as a list; one that is no YAML names none.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(pin["repo"], "README.md", revision=pin["revision"]) if "repo" in pin else f"{pin['path']}/README.md"
    if not isinstance(found, str) or not Path(found).is_file():
        return None
    header = re.match(r"---\n(.*?)\n---", Path(found).read_text(encoding="utf-8", errors="replace"), re.S)
    try:
        fields = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError:
        return None
    named = fields.get("license") if isinstance(fields, dict) else None
    return ", ".join(map(str, named if isinstance(named, list) else [named])) if named else None


def fill(page: str, parts: dict[str, str]) -> str:
    """Replace every ``{{name}}`` in ``page`` by ``parts[name]``; a ``{{name}}`` inside a part stays as it is."""
    pieces = page.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled)


def packed_json(data: dict) -> str:
    """Encode ``data`` as JSON, compressed, in base64: fifty thousand cases stay small, and no text of a model can close a tag."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def round_metrics(k: int) -> dict:
    """Read what the stages of round ``k`` measured: its ``uncertainty``, ``regret`` and ``update``."""
    return {
        "k": k,
        **{name: read_json(f"metrics/{name}/round{k}.json")[name][f"round{k}"] for name in ("uncertainty", "regret", "update")},
    }


def accuracy_against_kl(rounds: list[dict], exported: dict, judged: dict) -> list[dict]:
    """Return, for the SFT policy and then for the policy after every round, its accuracy, win rates and forward KL to the SFT policy.

    Accuracy (shares of right answers) and win rates are those on the calibration prompts; the KL is in nats a sequence.
    ``exported`` is the final policy's uncertainty.json, ``judged`` the win rates of each round, None by a judge that there is not.
    """
    kl = [0.0, *(entry["update"]["kl_forward"] for entry in rounds)]
    known_correct = [correct for correct in exported["calibration_correct"] if correct is not None]
    final_accuracy = sum(known_correct) / len(known_correct) if known_correct else None
    greedy = [*(entry["uncertainty"]["exact_match"] for entry in rounds), final_accuracy]
    sampled = [*(entry["uncertainty"]["sampled_accuracy"] for entry in rounds), exported["calibration_sampled_accuracy"]]
    later_wins = [judged[f"round{entry['k']}"] for entry in rounds]
    against_itself = {name: None if later_wins[0][name] is None else 0.5 for name in ("win_rate", "ensemble_win_rate")}  # all ties
    wins = [against_itself, *later_wins]
    return [
        {
            "kl": nats, "exact_match": exact_match, "sampled_accuracy": sampled_accuracy,
            "win_rate": win["win_rate"], "ensemble_win_rate": win["ensemble_win_rate"],
        }
        for nats, exact_match, sampled_accuracy, win in zip(kl, greedy, sampled, wins, strict=True)
    ]  # fmt: skip


def cases_by_origin(rounds: list[dict]) -> list[dict]:
    """Count the cases of each round by where their chosen response comes from."""
    origins = sorted({name for entry in rounds for name in entry["regret"]["by_source"]})
    return [{"name": origin, "cases": [entry["regret"]["by_source"].get(origin, 0) for entry in rounds]} for origin in origins]


def read_csv(path: str) -> list[dict]:
    """Read the rows of a CSV file of numbers; an empty cell becomes None."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]


def auroc_by_signal(calibration: dict, signals: list[str]) -> list[dict]:
    """List the AUROC of the combined uncertainty, and of each of ``signals`` that the evaluation has, for both policies."""
    rows = [{"name": "combined", "ugrr": calibration["auroc"], "sft": calibration["baseline_auroc"]}]
    for name in signals:
        if f"auroc_{name}" in calibration:
            rows.append(
                {"name": name.replace("_", " "), "ugrr": calibration[f"auroc_{name}"], "sft": calibration.get(f"baseline_auroc_{name}")}
            )
    return rows


def regret_cases(rounds: list[int]) -> list[dict]:
    """List every case of every round, highest regret first, with the final policy's response to its prompt."""
    final = {row["id"]: row["text"] for row in read_jsonl("data/responses/final.jsonl")}
    rows = []
    for k in rounds:
        for row in read_jsonl(f"data/regret_buffer/round{k}.jsonl"):
            if row["kind"] == "case":
                rejected = row["rejected"]
                rows.append(
                    {
                        "round": k, "source": row["source"], "regret": round(row["regret"], 4), "uncertainty": round(row["uncertainty"], 4),
                        "right": row["chosen_right"], "prompt": row["prompt"][-1]["content"],
                        "chosen": row["chosen"]["text"], "final": final.get(row["id"]),
                        "pieces": rejected["pieces"], "entropies": rejected["entropies"],
                    }
                )  # fmt: skip
    return sorted(rows, key=lambda row: -row["regret"])


def metric_cards(evaluation: dict) -> str:
    """Write the few metrics to see first as HTML: the name, the value, and the baseline's value or the interval."""
    gsm8k, calibration, drift, alpaca = (evaluation.get(name, {}) for name in ("gsm8k", "calibration", "drift", "alpaca_eval"))
    shown = [
        ("exact match", f"{gsm8k['exact_match']:.3f}", f"from {gsm8k['baseline_exact_match']:.3f}"),
        ("accuracy of samples", f"{gsm8k['sampled_accuracy']:.3f}", f"from {gsm8k['baseline_sampled_accuracy']:.3f}"),
        ("newly right / wrong", f"{gsm8k['newly_right']} / {gsm8k['newly_wrong']}", f"of {gsm8k['examples']} problems"),
    ]
    if "win_rate" in alpaca:
        shown.append(("win rate, AlpacaEval", f"{alpaca['win_rate']:.3f}", interval_text(alpaca["win_rate_low"], alpaca["win_rate_high"])))
    if calibration["auroc"] is not None:
        before = calibration["baseline_auroc"]
        shown.append(("AUROC of uncertainty", f"{calibration['auroc']:.3f}", "" if before is None else f"from {before:.3f}"))
    if drift:
        shown.append(
            ("drift, nats a sequence", f"{drift['kl_sequence']:.3f}", interval_text(drift["kl_sequence_low"], drift["kl_sequence_high"]))
        )
    return "".join(
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd><dd class="from">{escape(origin)}</dd></div>'
        for name, value, origin in shown
    )


def comparison_cells(evaluation: dict) -> list[tuple[str, ...]]:
    """List the rows of the comparison, each with the p-value of its exact test, and whether the data show a difference."""
    p_values = [("" if row.p_value is None else f"{row.p_value:.2g}", row) for row in comparison_rows(evaluation)]
    return [(*row.cells, p_value, "yes" if row.shown else "no") for p_value, row in p_values]


def notes_html(evaluation: dict) -> str:
    """Write what the comparison does not show, and which replies of a judge could not be read, as HTML."""
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in notes(evaluation))


def abstention_text(metrics: dict) -> str:
    """Say what abstention promises and what it does here, from the metrics ``selective`` of the evaluation."""
    promise = guarantee(*(metrics[name] for name in ("threshold", "target_risk", "risk_confidence", "calibration_answers")))
    low, high, risk = metrics["risk_low"], metrics["risk_high"], metrics["risk"]
    errors = "" if risk is None else f" and errs in {risk:.1%} of them ({low:.1%} to {high:.1%})"
    return (
        f"{promise} The final policy answers {metrics['answered']:.1%} of these problems{errors}; it abstains from the rest "
        f"(stages/ask.py). Knowing their answers, one could let it answer {metrics['answered_at_most']:.1%} at that risk."
    )


def round_table(rounds: list[dict], judged: dict) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and the rows of the table of rounds: what each one measured and did."""
    header = ("round", "exact match before", "sampled", "AUROC", "cases", "anchors", "retired", "stopped at", "forward KL", "win rate")
    rows = []
    for entry in rounds:
        uncertainty, regret, update = entry["uncertainty"], entry["regret"], entry["update"]
        values = (
            entry["k"], uncertainty["exact_match"], uncertainty["sampled_accuracy"], uncertainty["auroc"]["combined"],
            regret["cases"], regret["anchors"], regret["retired"], update["stopped_at"],
            update["kl_forward"], judged[f"round{entry['k']}"]["win_rate"],
        )  # fmt: skip
        rows.append(tuple("–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value) for value in values))
    return header, rows


def html_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table as HTML that scrolls sideways on narrow screens; cells are escaped."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


if __name__ == "__main__":
    run_stage(main)
