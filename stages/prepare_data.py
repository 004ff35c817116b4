"""prepare_data: read the data files as they come and split them by prompt.

    python stages/prepare_data.py

Every prompt goes to one split, decided by its text and by which files it stands in, so that no prompt is in
two and adding others moves none: evaluation; calibration; regret prompts; SFT; verifiers; judge. Counts and
what was left out are in metrics/data.json.
"""

from __future__ import annotations

from anchora.data import formats
from anchora.data.reading import read_rows
from anchora.data.splits import flip_side, prompt_id, question_id, questions, split_share, unique_rows
from anchora.run.errors import UserError
from anchora.run.files import write_json, write_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from parameters.prepare_data import PrepareDataParams


def main() -> None:
    params = read_params(PrepareDataParams)
    log_params(params)
    sft = read_rows(params.sft_data_path, formats.sft_row)
    preferences = read_rows(params.preference_data_path, formats.preference_row)
    regret = read_rows(params.regret_prompts_path, formats.prompt_row, may_be_empty=True)
    calibration = read_rows(params.calibration_path, formats.gsm8k_row, may_be_empty=True)
    evaluation = read_evaluation(params)
    read, counts = {"sft": len(sft), "preferences": len(preferences)}, dict[str, int]()
    own_calibration, own_regret = bool(calibration), bool(regret)
    for rows in (sft, preferences, regret, calibration, evaluation):
        for row in rows:
            row["id"] = prompt_id(row["prompt"])
    held = {question_id(row) for row in evaluation}
    calibration, counts["calibration_in_evaluation"] = keep(calibration, lambda row: not questions(row) & held)
    calibration, counts["calibration_duplicates"] = unique_rows(calibration)
    shots, calibration = take_shots(calibration, params)

    sft, counts["sft_duplicates"] = unique_rows(sft, "completion")
    preferences, counts["preference_duplicates"] = unique_rows(preferences, "response_a", "response_b")
    regret, counts["regret_duplicates"] = unique_rows(regret)
    preferences, counts["preferences_without_preference"] = keep(
        preferences, lambda row: row["label"] != 0.5 and row["response_a"].strip() != row["response_b"].strip()
    )

    held |= {question_id(row) for row in calibration}
    regret, counts["regret_held_out"] = keep(regret, lambda row: not questions(row) & held)
    held |= {question_id(row) for row in regret}
    sft, counts["sft_held_out"] = keep(sft, lambda row: not questions(row) & held)
    preferences, counts["preferences_held_out"] = keep(preferences, lambda row: not questions(row) & held)

    if not own_calibration:
        calibration, sft = take_share(sft, "calibration", params.calibration_share)
        calibration, _ = unique_rows([{**row, "reference": row["completion"]} for row in calibration])
        taken = {question_id(row) for row in calibration}
        sft, counts["sft_in_calibration"] = keep(sft, lambda row: not questions(row) & taken)
        preferences, counts["preferences_in_calibration"] = keep(preferences, lambda row: not questions(row) & taken)
    known: list[dict] = []
    if not own_regret:
        regret_sft, sft = take_share(sft, "regret", params.regret_share)
        regret_preferences, preferences = take_share(preferences, "regret", params.regret_share)
        known = known_responses(regret_sft, regret_preferences)
        regret, _ = unique_rows([{key: row[key] for key in ("id", "prompt", "source")} for row in regret_sft + regret_preferences])

    sft, preferences = part(sft, preferences, counts)
    judge, preferences = take_share(preferences, "judge", params.judge_share)

    for row in [*calibration, *(row for row in evaluation if row["set"] == "gsm8k")]:
        row["prompt"] = shots + row["prompt"]
    write_splits({
        "sft": sft,
        "preferences": [flip_side(row, params.seed) for row in preferences],
        "judge": [flip_side(row, params.seed) for row in judge],
        "prompts": few(regret, params.prompt_limit),
        "calibration": few(calibration, params.prompt_limit),
        "evaluation": evaluation,
    }, known, read, counts)  # fmt: skip


def part(sft: list[dict], preferences: list[dict], counts: dict[str, int]) -> tuple[list[dict], list[dict]]:
    """Both without the prompts that they share: half of those, by their hash, stay with one, half with the other."""
    in_both = {question_id(row) for row in sft} & {question_id(row) for row in preferences}
    to_sft = {key for key in in_both if split_share(key, "both") < 0.5}
    sft, counts["sft_prompts_given_to_preferences"] = keep(sft, lambda row: question_id(row) not in in_both - to_sft)
    preferences, counts["preference_prompts_given_to_sft"] = keep(preferences, lambda row: question_id(row) not in to_sft)
    return sft, preferences


def write_splits(splits: dict[str, list[dict]], known: list[dict], read: dict[str, int], counts: dict[str, int]) -> None:
    """The files of data/prepared, the responses known beforehand, and how many rows were read, went where or were left out."""
    for name, rows in splits.items():
        if not rows:
            raise UserError(
                f"split {name!r} would be empty: too few rows in the data files, a share of 0, or all its prompts are in a split "
                f"that goes before it ({counts})"
            )
    for name, rows in splits.items():
        write_jsonl(f"data/prepared/{name}.jsonl", sorted(rows, key=lambda row: (row.get("set", ""), row["id"])))
    write_jsonl("data/regret_buffer/sft.jsonl", sorted(known, key=lambda row: (row["id"], row["response"])))
    write_json(
        "metrics/data.json", {"data": {"rows": read, "splits": {name: len(rows) for name, rows in splits.items()}, "left_out": counts}}
    )
    say("data: " + ", ".join(f"{name} {len(rows)}" for name, rows in splits.items()))


def read_evaluation(params: PrepareDataParams) -> list[dict]:
    """GSM8K, AlpacaEval and MT-Bench as rows with the name of their set; AlpacaEval and MT-Bench may be empty files."""
    sources = (
        ("gsm8k", params.gsm8k_path, formats.gsm8k_row),
        ("alpaca_eval", params.alpaca_eval_path, formats.alpaca_eval_row),
        ("mt_bench", params.mt_bench_path, formats.mt_bench_row),
    )
    rows = []
    for name, path, convert in sources:
        found = read_rows(path, convert, may_be_empty=name != "gsm8k")
        rows += [{"set": name, "position": position, **row} for position, row in enumerate(found)]
    return rows


def take_shots(calibration: list[dict], params: PrepareDataParams) -> tuple[list[dict[str, str]], list[dict]]:
    """The messages that stand before every problem of GSM8K's format, and the calibration rows that are left."""
    if params.gsm8k_shots and params.gsm8k_shots >= len(calibration):
        raise UserError(
            f"gsm8k_shots: {params.gsm8k_shots} of the {len(calibration)} problems of {params.calibration_path} leave none to calibrate on"
        )
    messages: list[dict[str, str]] = []
    for row in calibration[: params.gsm8k_shots]:
        messages += [*row["prompt"], {"role": "assistant", "content": row["reference"]}]
    return messages, calibration[params.gsm8k_shots :]


def keep(rows: list[dict], condition) -> tuple[list[dict], int]:
    """The rows that meet the condition, and how many do not."""
    kept = [row for row in rows if condition(row)]
    return kept, len(rows) - len(kept)


def take_share(rows: list[dict], purpose: str, share: float) -> tuple[list[dict], list[dict]]:
    """Rows whose prompt falls into a share kept for a purpose, and the others."""
    taken: list[dict] = []
    left: list[dict] = []
    for row in rows:
        (taken if split_share(question_id(row), purpose) < share else left).append(row)
    return taken, left


def few(rows: list[dict], limit: int) -> list[dict]:
    """At most ``limit`` rows, those of the least hash, so that more prompts mean these and others; all for 0."""
    return sorted(rows, key=lambda row: row["id"])[: limit or None]


def known_responses(sft: list[dict], preferences: list[dict]) -> list[dict]:
    """Responses known before round 0: reference completions and preferred responses."""
    rows = [{"id": row["id"], "response": row["completion"], "from": "reference"} for row in sft]
    for row in preferences:
        preferred = row["response_a"] if row["label"] > 0.5 else row["response_b"]
        rows.append({"id": row["id"], "response": preferred, "from": "preferred"})
    return rows


if __name__ == "__main__":
    run_stage(main)
