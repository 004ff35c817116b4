"""Win rates by the kept-out judge and by the ensemble, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from anchora.evaluation import scoring_judge
from anchora.evaluation.scoring_judge import ScoringJudge, judge_by_scores, win_rates_over_first


def test_win_rates_over_the_first_policy_by_hand(monkeypatch):
    """Three prompts, the SFT policy and two rounds. The judge has 1, 1, 1 for SFT, 2, 1, 0 for round 0: a win, a tie, a
    loss, 1/2; 2, 2, 0 for round 1: 2/3. Members differ from SFT by (1, -2, 0) and (-1, 1, 3) in round 0; in units of
    their deviations, 1 and 2, by (1, -2, 0) and (-.5, .5, 1.5), in the mean .25, -.75, .75: 2/3; not at all in round 1: 1/2.
    """
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in "abc"]
    scores = np.array([[1, 1, 1, 2, 1, 0, 2, 2, 0], [0, 0, 0, 1, -2, 0, 0, 0, 0], [5, 5, 5, 4, 6, 8, 5, 5, 5]], dtype=float)
    scored = []
    monkeypatch.setattr(scoring_judge, "score_ensemble", lambda models, pairs, params, rows: scored.extend(pairs) or scores)
    responses = [["s", "s", "s"], ["x", "y", "z"], ["u", "v", "w"]]
    judge = ScoringJudge({}, [{}, {}], np.array([1.0, 2.0]))
    rounds = win_rates_over_first(judge, rows, responses, SimpleNamespace(seed=0))
    assert scored[3:5] == [(rows[0]["prompt"], "x"), (rows[1]["prompt"], "y")]
    assert [metrics["win_rate"] for metrics in rounds] == pytest.approx([1 / 2, 2 / 3], abs=1e-5)
    assert [metrics["ensemble_win_rate"] for metrics in rounds] == pytest.approx([2 / 3, 1 / 2], abs=1e-5)


def test_second_answers_are_scored_behind_the_same_first_answers(monkeypatch):
    """Equal second answers tie, and the better one wins, though a score is far higher behind one policy's first answer.

    The score here: the length of the whole conversation's first answer, times ten, plus that of the answer that is scored.
    Row 0: first answers win for the policy (3 to 1 letters), second ones are equal: wins (1 + 1/2) / 2. Row 1: first
    answers lose, the second one is longer by a letter: 1/2.
    """

    def score(models, pairs, params):
        firsts = [sum(len(message["content"]) for message in prompt if message["role"] == "assistant") for prompt, _ in pairs]
        return np.array([[10 * first + len(text) for first, (_, text) in zip(firsts, pairs, strict=True)]] * len(models), dtype=float)

    monkeypatch.setattr(scoring_judge, "score_ensemble", score)
    rows = [{"turns": ["q", "r"]}] * 2
    policy, baseline = [["aaa", "xx"], ["a", "xxx"]], [["a", "xx"], ["aaa", "xx"]]
    metrics = judge_by_scores(ScoringJudge({}, [{}], np.ones(1)), rows, policy, baseline, SimpleNamespace(seed=0))
    assert metrics["win_rate"] == pytest.approx((0.75 + 0.5) / 2)
    assert metrics["reward"] == pytest.approx(np.mean([3, 10 * (3 + 1) / 2 + 2, 1, 10 * (3 + 1) / 2 + 3]))
