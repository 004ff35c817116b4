"""What a run of `make real` came to, from rows made by hand."""

import json

import figures
import pytest

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed; `make real` installs it")


def row(question: str, answer: str, sft: str, ugrr: str, right: tuple[bool, bool]) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}], "reference": f"steps\n#### {answer}", "baseline": sft, "policy": ugrr,
        "baseline_correct": right[0], "policy_correct": right[1],
    }  # fmt: skip


@pytest.fixture()
def rows(tmp_path):
    """A sum that both solve, and a product that only ours solves; in the file a question of each family in turn."""
    order = figures.turns()
    questions = [f"question {number}, {family}" for number, family in enumerate(order)]
    lines = [json.dumps({"question": question, "answer": "#### 1"}) for question in questions]
    (tmp_path / "evaluation.jsonl").write_text("\n".join(lines) + "\n")
    product = order.index("products")
    return [
        row(questions[product], "12", "3 * 4 = 7\n#### 7", "3 * 4 = 12\n#### 12", (False, True)),
        row(questions[0], "-7", "#### -7", "1 - 8 = -7\n#### -7", (True, True)),
    ]


def test_rows_find_their_families_and_their_counts(rows, tmp_path, capsys):
    families = figures.families_of(rows, tmp_path / "evaluation.jsonl")
    assert families == ["products", "chain_sum"]
    figures.print_families(rows, families)
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["products"] == ["1", "0.000", "1.000", "1", "0"] and lines["chain_sum"] == ["1", "1.000", "1.000", "0", "0"]


def test_other_hands_count_alike_and_what_they_do_not_is_printed(rows, tmp_path, capsys):
    """A response whose last #### is wrong behind a right first one: the flexible filter and the scorer take the last one."""
    families = figures.families_of(rows, tmp_path / "evaluation.jsonl")
    assert figures.recounted(rows, families, "ugrr") == {"reasoning_gym": [True, True], "lm_eval": [True, True]}
    assert figures.recounted(rows, families, "sft") == {"reasoning_gym": [False, True], "lm_eval": [False, True]}
    rows[0]["policy"] += "\n#### 13"
    counts = figures.recounted(rows, families, "ugrr")
    assert counts == {"reasoning_gym": [False, True], "lm_eval": [False, True]}
    figures.print_differences(rows, figures.counted_alike(rows, {f"{name}_ugrr": right for name, right in counts.items()}))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2 and shown[0].startswith("reasoning_gym_ugrr: wrong, and right here: ") and shown[0].endswith(" against 12")


def test_figures_hold_what_the_study_names(rows):
    evaluation = {
        "gsm8k": {
            "baseline_exact_match": 0.5, "examples": 2, "difference": 0.5, "p_value": 1.0, "sampled_difference": 0.25, "newly_wrong": 1,
        },
        "calibration": {
            "baseline_auroc": 0.8, "baseline_auroc_token_entropy": 0.7, "baseline_auroc_low": 0.6, "auroc_token_entropy": 0.1,
            "baseline_auroc_over_token_entropy_high": 0.2,
        },
        "drift": {"kl_sequence": 0.4}, "selective": {"risk": 0.1},
    }  # fmt: skip
    counted = {
        f"{name}_{side}": [row[f"{figures.SIDES[side]}_correct"] for row in rows]
        for name in ("reasoning_gym", "lm_eval")
        for side in figures.SIDES
    }
    counted["lm_eval_sft"] = [True, True]
    found = figures.figures(evaluation, figures.counted_alike(rows, counted))
    assert found["arms"]["ugrr"] | {"p_value_by_seed": []} == {
        "gain_by_seed": [0.5], "p_value_by_seed": [], "mean_gain": 0.5, "mean_sampled_gain": 0.25, "mean_kl": 0.4, "newly_wrong": 0.5,
    }  # fmt: skip
    assert found["auroc"] == {"token_entropy": 0.7, "combined": 0.8}
    assert found["agreement"] == {"reasoning_gym": 1.0, "lm_eval": 0.75}
