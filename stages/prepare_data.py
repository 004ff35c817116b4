"""prepare_data: read the data files as they come and split them by prompt.

    python stages/prepare_data.py

A question goes to one split alone. Where it stands in several files, the first of these keeps it:

    evaluation     everything in its three files
    calibration    its own file; without one, a share of the SFT prompts
    regret prompts their own file; without one, a share of the prompts of SFT and preferences
    SFT, verifiers the rest; of the prompts that both have, half stay with one and half with the other
    judge          a share of what would be the verifiers' prompts

What else a row of a prompt holds, such as its answer, stays with it as its columns, for scoring functions. Where these judge alone,
the preferences may be an empty file: no verifier is trained then, and no judge.

Shares and halves are decided by a hash of the prompt's text, so that more rows move no prompt to another split.
Counts of rows and of what was left out are in metrics/data.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from anchora.data import formats
from anchora.data.columns import kept_columns
from anchora.data.reading import read_rows
from anchora.data.splits import flip_side, prompt_id, question_id, question_ids, share_of_questions, split_share, unique_rows
from anchora.run.errors import UserError
from anchora.run.files import write_json, write_jsonl
from anchora.run.logs import log_params, say
from anchora.run.params import read_params
from anchora.run.stage import run_stage
from anchora.verifiers.function_worker import check_functions
from parameters.prepare_data import PrepareDataParams


@dataclass
class Splits:
    """The rows of every split by its name, and how many were left out, by reason."""

    rows: dict[str, list[dict]]
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, split: str, reason: str, applies: Callable[[dict], bool]) -> None:
        """Drop the rows of a split for which ``applies`` is true, and count them under ``reason``."""
        kept = [row for row in self.rows[split] if not applies(row)]
        self.left_out[reason] = len(self.rows[split]) - len(kept)
        self.rows[split] = kept

    def leave_out_repeats(self, split: str, reason: str, *fields: str) -> None:
        """Drop rows whose prompt and ``fields`` an earlier row of the split has, and count them under ``reason``."""
        self.rows[split], self.left_out[reason] = unique_rows(self.rows[split], *fields)

    def give_way(self, split: str, to: list[str], reason: str) -> None:
        """Drop the rows of a split that ask, in any turn, a question of the splits ``to``; count them under ``reason``."""
        held_out = self.questions(*to)
        self.leave_out(split, reason, lambda row: bool(question_ids(row) & held_out))

    def questions(self, *names: str) -> set[str]:
        """Return the ids of all questions of some splits."""
        return {question_id(row) for name in names for row in self.rows[name]}

    def take_share(self, split: str, purpose: str, share: float) -> list[dict]:
        """Remove the rows whose prompt falls into the share kept for a purpose from a split, and return them."""
        taken, self.rows[split] = share_of_questions(self.rows[split], purpose, share)
        return taken


def main() -> None:
    params = read_params(PrepareDataParams)
    refuse_linked_folders()
    log_params(params)
    splits = read_splits(params)
    rows = splits.rows
    rows_read = {name: len(rows[name]) for name in ("sft", "preferences")}
    has_calibration_file, has_regret_file = bool(rows["calibration"]), bool(rows["prompts"])
    if not rows["preferences"]:
        check_goes_without_preferences({row["set"] for row in rows["evaluation"]}, params)

    splits.give_way("calibration", to=["evaluation"], reason="calibration_in_evaluation")
    splits.leave_out_repeats("calibration", "calibration_duplicates")
    rows["examples"] = take_examples(rows["calibration"], params)

    splits.leave_out_repeats("sft", "sft_duplicates", "completion", "tool_calls", "reasoning_content")
    splits.leave_out("preferences", "preferences_without_preference", prefers_neither)
    splits.leave_out_repeats("preferences", "preference_duplicates", "response_a", "response_b", "label")
    splits.leave_out_repeats("prompts", "regret_duplicates")

    splits.give_way("prompts", to=["evaluation", "calibration", "examples"], reason="regret_held_out")
    for split in ("sft", "preferences"):
        splits.give_way(split, to=["evaluation", "calibration", "examples", "prompts"], reason=f"{split}_held_out")

    if not has_calibration_file:
        rows["calibration"] = calibration_from_sft(splits, params.calibration_share)
        for split in ("prompts", "sft", "preferences"):
            splits.give_way(split, to=["calibration"], reason=f"{split}_in_calibration")
    known_responses: list[dict] = []
    if not has_regret_file:
        rows["prompts"], known_responses = regret_prompts_from_training_data(splits, params.regret_share)
        for split in ("sft", "preferences"):
            splits.give_way(split, to=["prompts"], reason=f"{split}_in_regret_prompts")

    divide_common_prompts(splits)
    rows["judge"] = splits.take_share("preferences", "judge", params.judge_share)
    splits.give_way("preferences", to=["judge"], reason="preferences_in_judge")

    shape_rows(rows, params)
    check_functions(params.verifier_functions, [row["columns"] for row in rows["prompts"]])
    write_splits(splits, known_responses, rows_read)


def shape_rows(rows: dict[str, list[dict]], params: PrepareDataParams) -> None:
    """Put the worked examples before every problem, flip the sides of half of the pairs, and keep ``prompt_limit`` prompts; in place."""
    examples = example_turns(rows.pop("examples"))
    for row in [*rows["calibration"], *(row for row in rows["evaluation"] if row["set"] == "gsm8k")]:
        row["prompt"] = examples + row["prompt"]
    for name in ("preferences", "judge"):
        rows[name] = [flip_side(row, params.seed) for row in rows[name]]
    for name in ("prompts", "calibration"):
        rows[name] = least_ids(rows[name], params.prompt_limit)


def refuse_linked_folders() -> None:
    """Raise UserError where the folder of this stage's outs is a link to outside the project: DVC says so only when the stage has run."""
    for folder in (Path("data"), Path("metrics")):
        if folder.is_symlink() and not folder.resolve().is_relative_to(Path.cwd().resolve()):
            raise UserError(
                f"{folder} is a symbolic link to outside the project, where DVC keeps no outs; make it a folder, and link in it only what "
                "is read, such as data/own"
            )


def read_splits(params: PrepareDataParams) -> Splits:
    """Read every file into the split that it is meant for; each row gets the ``id`` of its prompt."""
    rows = {
        "sft": read_rows(params.sft_data_path, with_columns(formats.sft_row)),
        "preferences": read_rows(params.preference_data_path, with_columns(formats.preference_row), may_be_empty=True),
        "judge": [],
        "prompts": read_rows(params.regret_prompts_path, with_columns(formats.prompt_row), may_be_empty=True),
        "calibration": read_rows(params.calibration_path, problem_row(params), may_be_empty=True),
        "evaluation": read_evaluation(params),
    }
    return Splits({name: [{**row, "id": prompt_id(row["prompt"])} for row in split] for name, split in rows.items()})


def problem_row(params: PrepareDataParams) -> Callable[[dict, str], dict]:
    """Return what reads a row of GSM8K's format, whose answer is read as those of the responses."""
    return with_columns(partial(formats.gsm8k_row, reading=params.answer_reading))


def with_columns(convert: Callable[[dict, str], dict]) -> Callable[[dict, str], dict]:
    """Return what reads a row as ``convert`` does, and keeps its columns for scoring functions."""
    return lambda row, location: {**convert(row, location), "columns": kept_columns(row)}


def check_goes_without_preferences(sets: set[str], params: PrepareDataParams) -> None:
    """Raise UserError where there are no preferences, and verifiers or a judge would be trained on them; ``sets`` are evaluated."""
    if params.verifiers:
        raise UserError(
            f"{params.preference_data_path}: no rows, and verifiers {params.verifiers} are trained on them; set verifiers: [] and name "
            "verifier_functions, verifier_paths or a verifier_judge"
        )
    if sets != {"gsm8k"} and not params.judge_model:
        raise UserError(
            f"{params.preference_data_path}: no rows to train a judge on, and {' and '.join(sorted(sets - {'gsm8k'}))} would be judged; "
            "make alpaca_eval_path and mt_bench_path empty files (data/no_data_of_this_kind.jsonl), or name a judge_model"
        )


def read_evaluation(params: PrepareDataParams) -> list[dict]:
    """Read GSM8K, AlpacaEval and MT-Bench as rows with the name of their set; AlpacaEval and MT-Bench may be empty files."""
    evaluation_sets = (
        ("gsm8k", params.gsm8k_path, problem_row(params)),
        ("alpaca_eval", params.alpaca_eval_path, formats.alpaca_eval_row),
        ("mt_bench", params.mt_bench_path, formats.mt_bench_row),
    )
    rows = []
    for name, path, convert in evaluation_sets:
        converted = read_rows(path, convert, may_be_empty=name != "gsm8k")
        rows += [{"set": name, "position": position, **row} for position, row in enumerate(converted)]
    return rows


def take_examples(calibration: list[dict], params: PrepareDataParams) -> list[dict]:
    """Remove the first ``gsm8k_shots`` calibration rows, which stand solved before every other problem, and return them.

    Raises UserError where that leaves no row to calibrate on.
    """
    if params.gsm8k_shots and params.gsm8k_shots >= len(calibration):
        raise UserError(
            f"gsm8k_shots: {params.gsm8k_shots} of the {len(calibration)} problems of {params.calibration_path} leave none to calibrate on"
        )
    examples = calibration[: params.gsm8k_shots]
    del calibration[: params.gsm8k_shots]
    return examples


def example_turns(examples: list[dict]) -> list[dict[str, str]]:
    """Return solved problems as the turns of a conversation."""
    return [message for row in examples for message in (*row["prompt"], {"role": "assistant", "content": row["reference"]})]


def prefers_neither(pair: dict) -> bool:
    """Say whether a pair has nothing to teach: a label of one half, or twice the same response."""
    a, b = (response.strip() if isinstance(response, str) else response for response in (pair["response_a"], pair["response_b"]))
    return pair["label"] == 0.5 or a == b


def calibration_from_sft(splits: Splits, share: float) -> list[dict]:
    """Take a share of the SFT prompts to calibrate on; their completions are the reference answers, but for calls of tools."""
    taken = splits.take_share("sft", "calibration", share)
    return unique_rows([{**row, "reference": row["completion"]} for row in taken if "tool_calls" not in row])[0]


def regret_prompts_from_training_data(splits: Splits, share: float) -> tuple[list[dict], list[dict]]:
    """Take a share of the prompts of SFT and preferences for the regret loop.

    Also returns the responses to them that are known before round 0: reference completions and preferred responses, of which a policy
    could have written each as one text: no tool calls, no thoughts, no several turns.
    """
    sft = splits.take_share("sft", "regret", share)
    preferences = splits.take_share("preferences", "regret", share)
    prompts, _ = unique_rows([{key: row[key] for key in ("id", "prompt", "columns", "source")} for row in sft + preferences])
    plain = [row for row in sft if "tool_calls" not in row and "reasoning_content" not in row]
    known_responses = [{"id": row["id"], "response": row["completion"], "from": "reference"} for row in plain]
    for row in preferences:
        preferred = row["response_a"] if row["label"] > 0.5 else row["response_b"]
        if isinstance(preferred, str):
            known_responses.append({"id": row["id"], "response": preferred, "from": "preferred"})
    return prompts, known_responses


def divide_common_prompts(splits: Splits) -> None:
    """Leave half of the prompts that SFT and preferences share to one, by their hash, and half to the other."""
    common = splits.questions("sft") & splits.questions("preferences")
    for_sft = {question for question in common if split_share(question, "both") < 0.5}
    for_preferences = common - for_sft
    splits.leave_out("sft", "sft_prompts_given_to_preferences", lambda row: question_id(row) in for_preferences)
    splits.leave_out("preferences", "preference_prompts_given_to_sft", lambda row: question_id(row) in for_sft)


def least_ids(rows: list[dict], limit: int) -> list[dict]:
    """Return at most ``limit`` rows, all for 0: those of the least ids, so that a larger limit adds rows and drops none."""
    return sorted(rows, key=lambda row: row["id"])[: limit or None]


def write_splits(splits: Splits, known_responses: list[dict], rows_read: dict[str, int]) -> None:
    """Write data/prepared, the responses known before round 0, and the counts: rows read, in each split, and left out.

    Raises UserError, and writes nothing, where a split would be empty.
    """
    may_be_empty = () if rows_read["preferences"] else ("preferences", "judge")
    for name, rows in splits.rows.items():
        if not rows and name not in may_be_empty:
            raise UserError(
                f"split {name!r} would be empty: too few rows in the data files, a share of 0, or all its prompts are in a split "
                f"that goes before it ({splits.left_out})"
            )
    for name in ("sft", "preferences", "judge"):  # no function is asked about them
        splits.rows[name] = [{key: value for key, value in row.items() if key != "columns"} for row in splits.rows[name]]
    for name, rows in splits.rows.items():
        write_jsonl(f"data/prepared/{name}.jsonl", sorted(rows, key=lambda row: (row.get("set", ""), row["id"])))
    write_jsonl("data/regret_buffer/sft.jsonl", sorted(known_responses, key=lambda row: (row["id"], row["response"])))
    counts = {name: len(rows) for name, rows in splits.rows.items()}
    write_json("metrics/data.json", {"data": {"rows": rows_read, "splits": counts, "left_out": splits.left_out}})
    say("data: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    run_stage(main)
