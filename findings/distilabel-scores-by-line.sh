#!/usr/bin/env bash
# distilabel's UltraFeedback, QualityScorer and ComplexityScorer take a judge's scores line by line and ignore which text each one names:
# a reply in another order swaps the ratings, a heading above it shifts all by one, one left out gives its place to the next. 4.5 is 4 and
# -1 is 1. It bites who makes preference pairs or filters data by these judges: the wrong answer is chosen, without an error.
# Source: own run, 2026-12-01. The judge is a stand-in with fixed replies. QualityScorer's shift: argilla-io/distilabel pull request 1166.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
${PYTHON:-python3} -m venv venv
venv/bin/pip install --quiet distilabel==1.5.3 datasets==5.2.0 requests==2.34.2 pillow==13.0.0

venv/bin/python - 2>log <<'EOF' || { cat log; exit 1; }
from importlib.metadata import version

from distilabel.models.llms.base import LLM
from distilabel.steps import FormatTextGenerationDPO
from distilabel.steps.tasks import ComplexityScorer, QualityScorer, UltraFeedback

print("versions: distilabel", version("distilabel"))
print("guess:    a score goes to the text that the reply names with it; a text without one has None; 4.5 is 4.5 or None")


class Judge(LLM):
    @property
    def model_name(self):
        return "judge"

    def load(self):
        pass

    def generate(self, *args, **kwargs):
        raise NotImplementedError


feedback = UltraFeedback(llm=Judge(), aspect="overall-rating")
asked = {"instruction": "ask", "generations": ["good", "bad"], "generation_models": ["model", "model"]}


def rated(ratings, before=""):
    """The ratings read from a reply that names its texts by number."""
    parts = (f"#### Output for Text {number}\nRating: {rating}\nRationale: because" for number, rating in ratings.items())
    return feedback.format_output(before + "\n\n".join(parts), asked)["ratings"]


replies = {
    "as asked for": rated({1: 5, 2: 1}),
    "text 2 first": rated({2: 1, 1: 5}),
    "a line before": rated({1: 5, 2: 1}, "Here are the ratings.\n\n"),
    "4.5 and 4": rated({1: 4.5, 2: 4}),
    "-1 and 0": rated({1: -1, 2: 0}),
}
for label, ratings in replies.items():
    print(f"seen:     UltraFeedback, {label}: {ratings}")
step = FormatTextGenerationDPO()
step.load()
pair = next(step.process([asked | {"ratings": replies["text 2 first"]}]))[0]
print("seen:     the pair from the reply with text 2 first: chosen", repr(pair["chosen"][-1]["content"]), end=", ")
print("rejected", repr(pair["rejected"][-1]["content"]))
assert replies["as asked for"] == [5, 1] and replies["text 2 first"] == [1, 5] and replies["a line before"] == [None, 5, 1]
assert replies["4.5 and 4"] == [4, 4] and replies["-1 and 0"] == [1, 0]
assert (pair["chosen"][-1]["content"], pair["rejected"][-1]["content"]) == ("bad", "good")

lists = {QualityScorer: {"instruction": "ask", "responses": ["a", "b", "c"]}, ComplexityScorer: {"instructions": ["a", "b", "c"]}}
for scorer, row in lists.items():
    judge = scorer(llm=Judge())
    read = {
        label: judge.format_output(reply, row)["scores"]
        for label, reply in {
            "as asked for": "[1] Score: 5\n[2] Score: 3\n[3] Score: 1",
            "in the order of merit": "[3] Score: 5\n[2] Score: 3\n[1] Score: 1",
            "a line before": "Scores:\n[1] Score: 5\n[2] Score: 3\n[3] Score: 1",
            "without [2]": "[1] Score: 5\n[3] Score: 1",
        }.items()
    }
    print(f"seen:     {scorer.__name__}:", ", ".join(f"{label} {scores}" for label, scores in read.items()))
    assert list(read.values()) == [[5, 3, 1], [5, 3, 1], [None, 5, 3], [5, 1]]
EOF
