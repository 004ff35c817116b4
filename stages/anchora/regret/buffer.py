"""The rows of the regret buffer, data/regret_buffer/round<k>.jsonl: what each field holds, in what unit, and who writes it.

A row is a case (a pair to learn from), an anchor (a response to hold on to) or a known response. The texts below are
also docs/buffer.md, made by tests/docs/buffer_page.py; tests/regret/test_buffer.py holds a written buffer against the types.
A field that is ``NotRequired`` is added after its row was selected. In a written buffer every field is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic reads none of typing's own before Python 3.12

from anchora.run.files import read_jsonl, write_jsonl

AS_WRITTEN = ConfigDict(extra="forbid", strict=True)
PREPARE, SCORE, BUILD = "prepare_data", "score_uncertainty", "build_regret_buffer"
SCORE_OR_BUILD = f"{SCORE}, or {BUILD} for a response from the data"
DEVIATIONS = "typical within-prompt deviations of a verifier"
ABSTAINS = ", null where a function abstains"
SCORE_UNIT = "logits, or what a function gives; (verifiers,)"
Origin = Literal["sample", "greedy", "reference", "preferred", "buffer"]


def about(meaning: str, written_by: str, unit: str = "", **limits) -> Any:
    """Describe a field: what it means, which stage writes it, its unit and shape, and limits of its value (pydantic's ``ge``, ``le``)."""
    return Field(description=meaning, json_schema_extra={"unit": unit, "written_by": written_by}, **limits)


Id = Annotated[
    str, about("hash of the prompt, 16 hex digits; the same prompt has the same id in every file", PREPARE, pattern="^[0-9a-f]{16}$")
]
Round = Annotated[int, about("the round that selected this row, from 0", BUILD, ge=0)]
Prompt = Annotated[list[dict[str, str]], about("chat messages, each with `role` and `content`; the user's turn stands last", PREPARE)]
PromptIds = Annotated[list[int], about("token ids of the prompt, chat template included", SCORE, "(prompt tokens,)", min_length=1)]
Uncertainty = Annotated[
    float,
    about(
        "how unsure the policy is about its greedy response: the share of the calibration prompts about which the SFT policy was at "
        "most as unsure. Beta of a case follows its rank",
        SCORE,
        "share",
        ge=0,
        le=1,
    ),
]
Scores = Annotated[
    list[float | None],
    about(
        f"raw score by each verifier{ABSTAINS}. Only differences between responses to the same prompt mean something",
        SCORE_OR_BUILD,
        SCORE_UNIT,
        min_length=1,
    ),
]


@with_config(AS_WRITTEN)
class Response(TypedDict):
    """A response to the prompt of its row."""

    text: Annotated[str, about("the response as people read it", SCORE_OR_BUILD)]
    ids: Annotated[
        list[int],
        about(
            "its token ids. A finished response ends with EOS; one that a stop string ended ends with that string, which `text` leaves "
            "out, unless it is chosen. A truncated one has no end",
            SCORE_OR_BUILD,
            "(tokens,)",
            min_length=1,
        ),
    ]
    finished: Annotated[bool, about("true: it ended by itself. false: `max_new_tokens` cut it", SCORE_OR_BUILD)]
    reference_logps: NotRequired[
        Annotated[list[float], about("log-prob of each of its tokens under the SFT policy", BUILD, "nats, (tokens,)")]
    ]


@with_config(AS_WRITTEN)
class Chosen(Response):
    """The response of a case that the update makes more likely."""

    scores: Scores
    entropy_rank: Annotated[
        float,
        about(
            "how unsure the policy was while it wrote this response: the share of the calibration prompts whose greedy response has at "
            "most its mean token entropy. 0 for responses from the data. Above `chosen_uncertainty_cap` none is chosen",
            SCORE_OR_BUILD,
            "share",
            ge=0,
            le=1,
        ),
    ]


@with_config(AS_WRITTEN)
class Rejected(Response):
    """The response of a case that the update makes less likely."""

    scores: Scores
    entropies: Annotated[list[float], about("entropy of the next-token distribution at each of its tokens", SCORE, "nats, (tokens,)")]
    pieces: NotRequired[
        Annotated[
            list[str],
            about("text that each of its tokens adds. Beside `entropies` it shows where the policy hesitated", BUILD, "(tokens,)"),
        ]
    ]


@with_config(AS_WRITTEN)
class Case(TypedDict):
    """A prompt whose greedy response is uncertain or clearly worse than another one, as a pair to learn from."""

    id: Id
    kind: Annotated[Literal["case"], about("the kind of row", BUILD)]
    round: Round
    held_out: Annotated[bool, about("what this prompt would be as an anchor. No stage reads it of a case: all cases are trained on", BUILD)]
    prompt: Prompt
    prompt_ids: PromptIds
    uncertainty: Uncertainty
    parts: Annotated[
        dict[str, float],
        about(
            "what `uncertainty` is made of, raw: `token_entropy` (nats a token); `sample_agreement` (one minus the share of samples "
            "that agree with the greedy response); `mc_dropout` (nats a token, or one minus the mean agreement in mode `regenerate`); "
            f"with several verifiers `verifier_disagreement` ({DEVIATIONS})",
            SCORE,
        ),
    ]
    regret: Annotated[
        float,
        about(
            "how much better the verifiers find chosen than rejected, less `regret_penalty` times what they dispute",
            BUILD,
            DEVIATIONS,
            gt=0,
        ),
    ]
    success_rate: Annotated[
        float,
        about(
            "estimated chance that a sample does as well as chosen: (g + 1) / (n + 2), where of n samples the verifiers find g not "
            "worse by more than `regret_threshold`",
            BUILD,
            "share",
            gt=0,
            lt=1,
        ),
    ]
    source: Annotated[
        Origin,
        about(
            "where chosen comes from: a `sample` of the policy, its `greedy` response, a `reference` completion or a `preferred` response "
            "of the data, or what this prompt's case chose in the `buffer` of the round before",
            BUILD,
        ),
    ]
    chosen: Annotated[Chosen, about("the better response", BUILD)]
    rejected: Annotated[Rejected, about("the worse response: the greedy one, or a sample where `source` is `greedy`", BUILD)]
    priority: NotRequired[
        Annotated[
            float,
            about("probability that one draw of the update takes this case. Those of a file add up to 1", BUILD, "share", gt=0, le=1),
        ]
    ]
    chosen_right: NotRequired[
        Annotated[
            float | None,
            about(
                "probability that chosen is right, given `uncertainty`, as measured on the calibration prompts. The update weighs the "
                "case by it. null where too few calibration prompts have known answers",
                BUILD,
                "share",
                ge=0,
                le=1,
            ),
        ]
    ]


@with_config(AS_WRITTEN)
class Anchor(TypedDict):
    """A prompt of round 0 that is neither uncertain nor regretted, with a sample of the SFT policy to hold on to."""

    id: Id
    kind: Annotated[Literal["anchor"], about("the kind of row", BUILD)]
    round: Round
    held_out: Annotated[bool, about("true: the forward KL is measured on it, and it is never trained on. false: trained on", BUILD)]
    prompt: Prompt
    prompt_ids: PromptIds
    uncertainty: Uncertainty
    response: Annotated[Response, about("the first sample of the SFT policy", BUILD)]


@with_config(AS_WRITTEN)
class Known(TypedDict):
    """A response that came with the data, to a prompt of the round: a candidate for chosen, not trained on as such."""

    id: Id
    kind: Annotated[Literal["known"], about("the kind of row", BUILD)]
    source: Annotated[
        Literal["reference", "preferred"],
        about("a `reference` completion of the SFT data, or the `preferred` response of a pair of the preference data", PREPARE),
    ]
    text: Annotated[str, about("the response", PREPARE)]
    ids: Annotated[list[int], about("its token ids, EOS at the end", BUILD, "(tokens,)", min_length=1)]
    finished: Annotated[bool, about("always true", BUILD)]
    scores: Annotated[list[float | None], about(f"raw score by each verifier{ABSTAINS}", BUILD, SCORE_UNIT, min_length=1)]
    entropy_rank: Annotated[float, about("always 0: the policy did not write it", BUILD, "share", ge=0, le=1)]


@dataclass(frozen=True)
class Buffer:
    """The rows of one buffer by their kind, each in the order of the file."""

    cases: list[Case] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)


def read_buffer(path: str | Path) -> Buffer:
    """Read data/regret_buffer/round<k>.jsonl."""
    buffer = Buffer()
    for row in cast("list[Case | Anchor | Known]", read_jsonl(path)):
        if row["kind"] == "case":
            buffer.cases.append(row)
        elif row["kind"] == "anchor":
            buffer.anchors.append(row)
        else:
            buffer.known.append(row)
    return buffer


def write_buffer(path: str | Path, buffer: Buffer) -> None:
    """Write a buffer sorted by kind (anchors, cases, known responses), then by id: the same rows give the same bytes."""
    rows: list[Case | Anchor | Known] = [*buffer.cases, *buffer.anchors, *buffer.known]
    write_jsonl(path, (dict(row) for row in sorted(rows, key=lambda row: (row["kind"], row["id"]))))


def responses_of(row: Case | Anchor) -> tuple[Response, ...]:
    """Return the responses of a row: chosen and rejected of a case, the one response of an anchor."""
    return (row["chosen"], row["rejected"]) if row["kind"] == "case" else (row["response"],)


def buffer_line(row: Case | Anchor) -> tuple[list[int], ...]:
    """Return the token ids of a row's prompt, then of each of its responses."""
    return (row["prompt_ids"], *(response["ids"] for response in responses_of(row)))
