"""The data of `make real`: seeds that do not overlap, files that share no question, solutions that are right by someone else's hand."""

import json
import operator
import re
import shutil
from fractions import Fraction
from itertools import combinations, product

import pytest
import yaml
from conftest import ROOT, params_file

reasoning_gym = pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed; `make real` installs it")

import problems  # noqa: E402

import prepare_data  # noqa: E402
from anchora.correctness.readings import READINGS  # noqa: E402
from anchora.data.splits import question_ids  # noqa: E402

SIZES = dict.fromkeys(problems.SIZES, 36)  # three of the rarest family in each file


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[dict]]:
    return problems.draw(SIZES, seed=0)


def test_neighbouring_seeds_of_the_generator_share_their_items():
    """The trap that SPACING is for: item 1 of seed 7 is item 0 of seed 8."""
    first, second = (reasoning_gym.create_dataset("chain_sum", size=2, seed=seed) for seed in (7, 8))
    assert first[1]["question"] == second[0]["question"]


def test_no_two_data_sets_come_within_their_items_of_each_other():
    """Whatever file, family and seed: the nearest two are SPACING apart, and no data set has as many items."""
    places = product(range(3), range(problems.FILES), problems.FAMILIES)
    seeds = [problems.data_set_seed(*place) for place in places]
    assert min(abs(first - second) for first, second in combinations(seeds, 2)) == problems.SPACING > problems.ITEMS


def test_no_question_stands_in_two_files_or_twice_in_one(drawn):
    """By the ids that the pipeline gives to questions, which pass over case and white space."""
    ids = [next(iter(question_ids({"prompt": messages(problem)}))) for file in drawn.values() for problem in file]
    assert len(ids) == sum(SIZES.values()) == len(set(ids))


def messages(problem: dict) -> list[dict]:
    return [{"role": "user", "content": problem["question"]}]


def test_a_question_that_comes_again_is_passed_over(monkeypatch):
    """Sums of two digits: 199 of 1,000 differ, so that repeats are met, within a file and between files."""
    monkeypatch.setattr(problems, "FAMILIES", {"chain_sum": ({"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, 1)})
    files = problems.draw({"evaluation": 60, "sft": 60}, seed=0)
    questions = [problem["question"] for file in files.values() for problem in file]
    assert len(set(questions)) == 120
    again = [problem["question"] for problem, _ in zip(problems.problems("chain_sum", problems.SPACING), range(60), strict=False)]
    assert len(set(again)) < 60


def test_evaluation_problems_of_another_seed_are_asked_nowhere_else(drawn):
    """Small sums and divisors come again in every seed, and are left out; the shares of families stay."""
    found = problems.not_among(drawn, problems.draw(SIZES, seed=1), 36)
    questions = {problem["question"] for problem in found}
    assert len(questions) == 36
    assert not questions & {problem["question"] for file in drawn.values() for problem in file}
    assert [problem["family"] for problem in found] == [problem["family"] for problem in drawn["evaluation"]]


def test_a_seed_with_nothing_new_is_told(drawn):
    with pytest.raises(SystemExit, match="take a third one"):
        problems.not_among(drawn, drawn, 36)


def test_every_family_has_its_share_of_every_file(drawn):
    shares = {family: share for family, (_, share) in problems.FAMILIES.items()}
    for file in drawn.values():
        counts = {family: sum(problem["family"] == family for problem in file) for family in shares}
        assert counts == {family: 3 * share for family, share in shares.items()}


def test_solutions_end_in_the_generators_own_answer(drawn):
    """By the pipeline's reading of answers, and by reasoning-gym's scorer."""
    scorers = {family: reasoning_gym.create_dataset(family, size=1, seed=0) for family in problems.FAMILIES}
    for problem in (one for file in drawn.values() for one in file):
        text = problems.solution(problem)
        assert READINGS["last"].read(text) == READINGS["anchored"].read(text) == Fraction(problem["answer"])
        entry = {"answer": problem["answer"], "metadata": {"source_dataset": problem["family"]}}
        assert scorers[problem["family"]].score_answer(str(READINGS["last"].read(text)), entry) == 1.0


def test_every_step_that_we_write_is_true(drawn):
    """``a op b = c`` by Python's arithmetic; the steps of gsm_symbolic are the generator's."""
    operations = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "%": operator.mod}
    seen = dict.fromkeys(operations, 0)
    for problem in (one for file in drawn.values() for one in file if one["family"] != "gsm_symbolic"):
        for step in problem["steps"]:
            if found := re.search(r"(?<![\d*])(-?\d+) ([-+*/%]) (-?\d+) = (-?\d+)$", step):
                left, operation, right, result = found.groups()
                assert operations[operation](Fraction(left), Fraction(right)) == Fraction(result), step
                seen[operation] += 1
    assert all(seen.values()), seen


@pytest.mark.parametrize(
    ("step", "answer", "fits"),
    [("So 3 * 12 = 36.0 eggs", "36", True), ("0.74*40 = 29", "30", False), ("$1,200 left.", "1200", True), ("none", "3", False)],
)
def test_a_text_with_faults_of_its_own_counts_by_its_answer_key(step, answer, fits):
    assert problems.ends_in(step, answer) is fits


@pytest.mark.parametrize("equation", ["3*x = 9", "3*x + 4*x = 14", "2*x + 3 + 4 = 9", "x + 4 = 9"])
def test_an_equation_of_another_form_has_no_steps(equation):
    assert problems.equation_steps({"metadata": {"variable": "x", "equation": equation}}) == []


def test_prepare_data_reads_the_files_and_leaves_nothing_out(here, drawn):
    problems.write_files(here / "data/own/real", drawn)
    (here / "data/no_data_of_this_kind.jsonl").write_text("[]\n")
    shutil.copytree(ROOT / "verifiers", here / "verifiers")
    preset = yaml.safe_load((ROOT / "presets/real.yaml").read_text())
    (here / "params.yaml").write_text(yaml.safe_dump(params_file() | preset))
    prepare_data.main()
    data = json.loads((here / "metrics/data.json").read_text())["data"]
    assert not any(data["left_out"].values())
    wanted = {"sft": 36, "prompts": 36, "calibration": 36, "evaluation": 36, "preferences": 0, "judge": 0}
    assert data["splits"] == wanted
    lines = (here / "data/prepared/prompts.jsonl").read_text().splitlines()
    assert {json.loads(line)["columns"]["answer"] for line in lines} == {problem["answer"] for problem in drawn["regret_prompts"]}
