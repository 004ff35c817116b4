"""What the stage itself does to the responses of a buffer."""

import copy
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trl
from buffer_rows import anchor, case, small_rows
from conftest import params_as

import build_regret_buffer
from anchora.model.prompts import encode_prompt, encode_response
from anchora.regret.params import BuildRegretBufferParams
from anchora.run.errors import UserError


def test_what_a_stop_string_ended_is_learnt_with_an_end(policy):
    _, tokenizer = policy
    eos = tokenizer.eos_token_id
    stopped = {"text": "4", "ids": [*tokenizer("4 Question:")["input_ids"]], "finished": True}
    ended, cut = {"text": "4", "ids": [7, eos], "finished": True}, {"text": "4", "ids": [7, 8], "finished": False}
    build_regret_buffer.end_by_token([stopped, ended, cut], [eos], tokenizer)
    assert stopped["ids"] == encode_response(tokenizer, "4") and ended["ids"] == [7, eos] and cut["ids"] == [7, 8]


@pytest.mark.parametrize("opening", ["<think>", ""])  # "": the prompt opens the thought
def test_what_was_thought_before_a_stop_string_stays(policy, opening):
    _, tokenizer = policy
    thought = opening + "2 and 2.</think>\n\n4"
    stopped = {"text": "4", "ids": [*tokenizer(thought + " Question:")["input_ids"]], "finished": True}
    build_regret_buffer.end_by_token([stopped], [tokenizer.eos_token_id], tokenizer)
    assert stopped["ids"] == encode_response(tokenizer, thought)


def test_a_known_answer_closes_the_thought_that_its_prompt_opens(policy, monkeypatch):
    """Behind the prompts of DeepSeek's R1 distillates it would be an unfinished thought; behind others it stays as it is."""
    tokenizer = copy.deepcopy(policy[1])
    asked, known = [{"role": "user", "content": "2 + 2?"}], {"id": "a", "response": "It is 4.", "from": "reference"}
    plain = encode_prompt(tokenizer, asked, "Q: {prompt}\n")
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "deepseek_r1_distill.jinja").read_text(encoding="utf-8")
    begun = encode_prompt(tokenizer, asked, "")
    prompts = [{"id": "a", "prompt": asked, "prompt_ids": begun}, {"id": "b", "prompt": asked, "prompt_ids": plain}]
    scored = []
    monkeypatch.setattr(build_regret_buffer, "ensemble_members", lambda *_: [])
    monkeypatch.setattr(build_regret_buffer, "score_ensemble", lambda _, pairs, *__: scored.extend(pairs) or np.zeros((1, len(pairs))))
    params = params_as(BuildRegretBufferParams, max_length=512)
    found = build_regret_buffer.scored_known([known, known | {"id": "b"}], prompts, tokenizer, params)
    assert [row["ids"] for row in found] == [encode_response(tokenizer, text) for text in ("\n</think>\n\nIt is 4.", "It is 4.")]
    assert [row["text"] for row in found] == [response for _, response in scored] == ["It is 4."] * 2


def test_known_responses_that_do_not_fit_are_left_out_and_told(policy, capsys):
    _, tokenizer = policy
    asked = [{"role": "user", "content": "2 + 2?"}]
    prompts = [{"id": "a", "prompt": asked, "prompt_ids": encode_prompt(tokenizer, asked, "Q: {prompt}\n")}]
    known = {"id": "a", "response": "It is 4. " * 200, "from": "reference"}
    params = params_as(BuildRegretBufferParams, max_length=64, max_new_tokens=8)
    assert build_regret_buffer.scored_known([known], prompts, tokenizer, params) == []
    assert "1 of 1 responses that came with the data are left out: longer than max_length" in capsys.readouterr().out


def test_cases_beyond_the_buffers_size_are_counted():
    """Of three cases the one of least regret goes; the others' chances add up to 1."""
    cases = [{**case(letter * 16, regret, 0.5, 0.0), "uncertainty": 0.5} for letter, regret in (("a", 1.0), ("b", 3.0), ("c", 2.0))]
    kept = build_regret_buffer.by_priority(cases, params_as(BuildRegretBufferParams, buffer_size=2))
    assert [row["id"][0] for row in kept] == ["b", "c"] and sum(row["priority"] for row in kept) == pytest.approx(1)
    figures = build_regret_buffer.case_figures(kept, Counter(from_low_score=3, evicted=1))
    assert (figures["cases"], figures["evicted"], figures["from_low_score"]) == (2, 1, 3)


@pytest.mark.parametrize(
    ("cases", "anchors", "told"), [(0, 2, "no regret case is left"), (1, 1, "1 of 9 prompts are neither"), (1, 0, "two")]
)
def test_a_buffer_that_no_update_could_use_is_refused_when_it_is_built(cases, anchors, told):
    rows = small_rows()
    with pytest.raises(UserError, match=told):
        build_regret_buffer.check_enough(rows.cases[:cases], rows.anchors[:anchors], 9, Counter(), 0)
    build_regret_buffer.check_enough(rows.cases, rows.anchors, 9, Counter(), 0)


def test_log_probs_that_a_killed_run_left_go_to_no_other_rows(policy, tmp_path, monkeypatch):
    """A judge that replies at last, or a function that was mended, may choose other rows than before the run was killed."""
    monkeypatch.setenv("ANCHORA_STAGE_SCRATCH", str(tmp_path))
    model, tokenizer = policy
    params = params_as(BuildRegretBufferParams)

    def logps_of(ids: list[int]) -> list[float]:
        monkeypatch.setattr("anchora.model.processes._calls", itertools.count())  # another run of the stage
        row = anchor("a" * 16, held_out=True)
        row["response"] = {"text": "", "ids": ids, "finished": True}
        build_regret_buffer.add_reference_logps([row], model, tokenizer, params)
        return row["response"]["reference_logps"]

    first, other = logps_of([5, 6, 2]), logps_of([7, 8, 2])
    assert first != other and logps_of([5, 6, 2]) == first
