"""What the stage itself does to the responses of a buffer."""

import build_regret_buffer
from anchora.model.prompts import encode_response


def test_what_a_stop_string_ended_is_learnt_with_an_end(policy):
    _, tokenizer = policy
    eos = tokenizer.eos_token_id
    stopped = {"text": "4", "ids": [*tokenizer("4 Question:")["input_ids"]], "finished": True}
    ended, cut = {"text": "4", "ids": [7, eos], "finished": True}, {"text": "4", "ids": [7, 8], "finished": False}
    build_regret_buffer.end_by_token([stopped, ended, cut], [eos], tokenizer)
    assert stopped["ids"] == encode_response(tokenizer, "4") and ended["ids"] == [7, eos] and cut["ids"] == [7, 8]


def test_what_was_thought_before_a_stop_string_stays(policy):
    _, tokenizer = policy
    thought = "<think>2 and 2.</think>\n\n4"
    stopped = {"text": "4", "ids": [*tokenizer(thought + " Question:")["input_ids"]], "finished": True}
    build_regret_buffer.end_by_token([stopped], [tokenizer.eos_token_id], tokenizer)
    assert stopped["ids"] == encode_response(tokenizer, thought)
