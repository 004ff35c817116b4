"""Our reading of lm-evaluation-harness's GSM8K figures against its own filters and metric."""

import json
import random
from pathlib import Path

import pytest
import yaml
from conftest import REAL, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from anchora.evaluation.harness_gsm8k import flexible_match, strict_match

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")


@pytest.fixture(scope="module")
def harness_counts():
    """A function from responses and references to what the harness counts: (strict, flexible)."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    task = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    ignored = task["metric_list"][0]["regexes_to_ignore"]
    filter_arguments = [{key: value for key, value in entry["filter"][0].items() if key != "function"} for entry in task["filter_list"]]
    filters = [RegexFilter(**each) for each in filter_arguments]

    def count(responses: list[str], references: list[str]) -> list[tuple[bool, bool]]:
        counts = []
        for each in filters:
            extracted = [values[0] for values in each.apply([[response] for response in responses], [{}] * len(responses))]
            counts.append(
                [
                    bool(exact_match_hf_evaluate([text], [reference], ignored, ignore_case=True)["exact_match"])
                    for text, reference in zip(extracted, references, strict=True)
                ]
            )
        return list(zip(*counts, strict=True))

    return count


def our_counts(responses: list[str], references: list[str]) -> list[tuple[bool, bool]]:
    return [(strict_match(text, reference), flexible_match(text, reference)) for text, reference in zip(responses, references, strict=True)]


def real_solutions() -> list[str]:
    path = next(iter(sorted(REAL.glob("*gsm8k*"))), ROOT / "data" / "gsm8k.jsonl")
    return [json.loads(line)["answer"] for line in path.read_text().splitlines()]


def damaged(text: str, rng: random.Random) -> str:
    """A solution as a model might garble it: cut, marks and signs changed, words added."""
    choice = rng.randrange(8)
    if choice == 0:
        return text[: rng.randrange(len(text) + 1)]
    if choice == 1:
        return text.replace("#### ", rng.choice(["####", "The answer is ", "#### $", "#### -", "### ", ""]))
    if choice == 2:
        return text + rng.choice([".", " dollars.", ".\nQuestion: 5", ",000", "%", " = 3.", "...", ".0", "\n\n"])
    if choice == 3:
        return text.replace("\n", " ") + " #### " + str(rng.randrange(100))
    if choice == 4:
        return "".join(rng.sample(text, len(text)))
    return text


def test_thousands_of_real_and_garbled_solutions_count_as_in_the_harness(harness_counts):
    rng, solutions = random.Random(0), real_solutions()
    references = [rng.choice(solutions) for _ in range(4000)]
    responses = [damaged(rng.choice([reference, rng.choice(solutions)]), rng) for reference in references]
    counted = harness_counts(responses, references)
    assert our_counts(responses, references) == counted
    assert {(True, True), (True, False), (False, True), (False, False)} == set(counted)


@given(st.text(alphabet="0123456789#$.,- \nab[]", max_size=30), st.integers(0, 10**6), st.booleans())
@settings(max_examples=1500, deadline=None)
def test_any_response_counts_as_in_the_harness(harness_counts, text, number, appended):
    response = f"{text}#### {number:,}" if appended else text
    assert our_counts([response], [f"so\n#### {number}"]) == harness_counts([response], [f"so\n#### {number}"])
