"""docs/buffer.md, made from the types of stages/anchora/regret/buffer.py.

python tests/docs/buffer_page.py          # writes the page; a test holds it current
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "stages")]
PAGE = ROOT / "docs" / "buffer.md"

TEXT = """# The regret buffer

<!-- made by tests/docs/buffer_page.py from stages/anchora/regret/buffer.py: edit those -->

**What is in `data/regret_buffer/round<k>.jsonl`, and how do I read it with pandas?**

In every round k the policy answers prompts, and `build_regret_buffer` keeps the answers worth learning from.
That is the regret buffer, one file a round. `update_policy` then trains on it.
Each line is one JSON object, a row. There are three kinds, which the field `kind` tells apart:

| kind | a row is |
|---|---|
| `case` | {case_is} |
| `anchor` | {anchor_is} |
| `known` | {known_is} |

A prompt becomes a case when its uncertainty is above the `uncertainty_quantile` of its round or its regret is above
`regret_threshold`, and a pair can be made of it. Of more cases than `buffer_size` those of highest priority are kept; `evicted` in
`metrics/regret/` counts the others. The words are explained below.

Rows are sorted by `kind` (anchors, cases, known responses), then by `id`. The same rows give the same bytes.
Beside these files stands `data/regret_buffer/sft.jsonl`, from `prepare_data`: the responses that came with your data, before
they are scored. Its rows hold `id`, `response` and `from` (`reference` or `preferred`).

## Words

**Policy** is the language model that is trained. The SFT policy is what supervised fine-tuning made of it, where round 0 starts.

**Greedy response, samples.** For each prompt the policy gives one response by always taking the likeliest token. That is the
greedy one, which the method judges. It also draws several samples at `temperature`, as users would.

**Uncertainty** says how unsure the policy is about the greedy response, from 0 to 1. It joins the entropy of its tokens,
how few samples agree with it, its change under dropout and the verifiers' disagreement. Its scale are the calibration prompts,
which are kept out of training: at 0.9 the policy is as unsure as the SFT policy was about the top tenth of them.

**Chosen and rejected.** A case is a pair: training makes `chosen` more likely and `rejected` less likely (DPO). Mostly
`rejected` is the greedy response and `chosen` a better one. Where the greedy response is the best, it is `chosen`, over a worse
sample: `source` is then `greedy`.

**Regret** says how much better the verifiers find chosen than rejected. Verifiers are models that score responses. Each one's
difference is divided by the standard deviation that its scores typically have among responses to one prompt. Regret is the mean
over the verifiers, less `regret_penalty` times their standard deviation: what they dispute counts less.
A regret of 1 is thus one typical deviation.

**success_rate** estimates how often a sample does as well as chosen. It is the share of this round's samples that the verifiers do
not find clearly worse, drawn a little towards a half: of eight that all do as well it is 0.9, of eight that do not it is 0.1.

**priority** is the probability that one draw of the update takes this case. With `replay: regret` it falls with the rank of the
regret, as 1 / rank to the power of {sharpness:g}. With `uniform` and `drop_hardest` all are alike. With `entropy_correctness` it goes
with the token entropy times p(1 - p), where p is `success_rate`. The values of a file add up to 1.

**round** is always the round of the file. Each round measures all prompts anew and selects its cases afresh, so that no case is
older than its round. Only what a case chose may be older: where `source` is `buffer`, it was sampled in an earlier round, and its
`entropy_rank` is that of the policy that sampled it.

**chosen_right** is the probability that chosen is right. The verifiers can err, and they err more often on uncertain prompts.
The calibration prompts show how often: some of their answers are known, and the same rules make cases of them. A curve
through these gives the share of right ones at each uncertainty. It never rises. Cases that chose the greedy response have a curve
of their own where {fewest} of them are known. A response from the data counts as right: 1. With `case_weight: calibrated` the
update weighs each case in proportion. The field is null where fewer than {fewest} calibration cases have known answers.

**entropy_rank** says how unsure the policy was while it wrote one response, from 0 to 1, by the mean entropy of its tokens.
It keeps guesses that happen to score well from being chosen: `chosen_uncertainty_cap` is its limit.

**pieces** is the rejected response cut into its tokens, as text. Entry i of `pieces` and of `entropies` belong together, so
that you see at which word the policy hesitated. The report shades its words by them.

**held_out** splits the anchors. The update trains on those with `false`. Those with `true` only measure how far the policy
has moved from the SFT policy (the forward KL, which `kl_budget` limits). About one anchor in five is held out.

**reference_logps** are log-probs under the SFT policy, the reference of DPO. As they stand in the buffer, the update needs
no second model in memory.

## Read it with pandas

```python
{example}```

## Fields of a case

{case}

## Fields of an anchor

{anchor}

## Fields of a response

`chosen` and `rejected` of a case and `response` of an anchor all have these:

{response}

`chosen` has these as well:

{chosen}

`rejected` has these as well:

{rejected}

## Fields of a known response

{known}

## See also

[method.md](method.md) says why cases are chosen in this way. The formulas stand in
[regret.py](../stages/anchora/regret/regret.py) (gain and regret), [replay.py](../stages/anchora/regret/replay.py) (priority),
[cases.py](../stages/anchora/regret/cases.py) (which prompts become cases),
[chosen_right.py](../stages/anchora/regret/chosen_right.py) and [losses.py](../stages/anchora/update/losses.py) (beta and weight).
"""

EXAMPLE = """\
import json

import pandas as pd

with open("data/regret_buffer/round0.jsonl", encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
cases = pd.json_normalize([row for row in rows if row["kind"] == "case"])  # chosen and rejected become columns: chosen.text
print(cases.sort_values("regret", ascending=False)[["id", "regret", "source", "chosen.text", "rejected.text"]].head().to_string())
print(cases.groupby("source")[["uncertainty", "regret", "chosen_right"]].mean())

# how much likelier the SFT policy found chosen than rejected, in nats
cases["reference_margin"] = cases["chosen.reference_logps"].map(sum) - cases["rejected.reference_logps"].map(sum)
print(cases["reference_margin"].describe())

# where the policy hesitated in the rejected response of highest regret
worst = cases.loc[cases["regret"].idxmax()]
tokens = pd.DataFrame({"piece": worst["rejected.pieces"], "entropy": worst["rejected.entropies"]})
print(tokens.sort_values("entropy", ascending=False).head())
"""


def type_of(schema: dict) -> str:
    """Return the type of a JSON schema in words, with its range."""
    if "anyOf" in schema:
        return " or ".join(type_of(kind) for kind in schema["anyOf"])
    if "$ref" in schema:
        return "object, below"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        if "anyOf" in schema["items"]:
            return "list of " + " or ".join(f"{type_of(kind)}s" for kind in schema["items"]["anyOf"]).replace("nulls", "null")
        return "list of objects" if schema["items"]["type"] == "object" else f"list of {type_of(schema['items'])}s"
    if schema["type"] == "object":
        return f"object of {type_of(schema['additionalProperties'])}s"
    name = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}[schema["type"]]
    bounds = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to"}
    return " ".join([name, *(f"{word} {schema[key]}" for key, word in bounds.items() if key in schema)])


def fields(row_type: type) -> dict[str, dict]:
    """Return the JSON schema of each field of a row or a response."""
    from pydantic import TypeAdapter

    return TypeAdapter(row_type).json_schema()["properties"]


def table(row_type: type, but: tuple[str, ...] = ()) -> str:
    """Return a Markdown table of the fields of a row or a response, without those in ``but``."""
    lines = ["| field | type | unit and shape | meaning | written by |", "|---|---|---|---|---|"]
    for name, schema in fields(row_type).items():
        if name not in but:
            cells = (f"`{name}`", type_of(schema), schema["unit"], schema["description"], schema["written_by"])
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page() -> str:
    """Return docs/buffer.md."""
    from anchora.regret import buffer
    from anchora.regret.replay import REGRET_SHARPNESS
    from anchora.uncertainty.reliability import MIN_LABELLED

    rows = {"case": buffer.Case, "anchor": buffer.Anchor, "known": buffer.Known}
    sentences = {f"{name}_is": row_type.__doc__ for name, row_type in rows.items()}
    tables = {name: table(row_type) for name, row_type in {**rows, "response": buffer.Response}.items()}
    in_every_response = tuple(fields(buffer.Response))
    for name, response in (("chosen", buffer.Chosen), ("rejected", buffer.Rejected)):
        tables[name] = table(response, but=in_every_response)
    return TEXT.format(example=EXAMPLE, fewest=MIN_LABELLED, sharpness=REGRET_SHARPNESS, **sentences, **tables)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
