"""What the stage itself does to the responses of a buffer."""

import copy
from pathlib import Path

import numpy as np
import pytest
import trl
from conftest import params_as

import build_regret_buffer
from anchora.model.prompts import encode_prompt, encode_response
from anchora.regret.params import BuildRegretBufferParams


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
