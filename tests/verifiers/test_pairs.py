"""What verifiers read: encoders with their tokenizers' marks, decoders as a policy would."""

from conftest import ROOT, scoring_params

from anchora.model.loading import load_tokenizer
from anchora.model.pins import from_folder
from anchora.model.prompts import encode_prompt, encode_response
from anchora.verifiers.pairs import encode_pair, max_pair_length, pad_inputs

PROMPT = [{"role": "user", "content": "Mia has 3 eggs. How many?"}]


class RobertaMarks:
    """A tokenizer that frames pairs as RoBERTa's does: <s> a </s></s> b </s>, with letters as ids."""

    cls_token_id, sep_token_id = 0, 2

    def __call__(self, first, second=None, add_special_tokens=True):
        ids = [ord(letter) for letter in first]
        return {"input_ids": ids if second is None else [0, *ids, 2, 2, *(ord(letter) for letter in second), 2]}


def test_encoders_read_pairs_with_token_types(encoder):
    model, tokenizer = encoder
    ids = encode_pair(tokenizer, PROMPT, "3", 512, "")
    expected = tokenizer(PROMPT[0]["content"], "3")
    inputs = pad_inputs(tokenizer, model, [ids, ids[:5]])
    assert ids == expected["input_ids"]
    assert inputs["token_type_ids"][0].tolist() == expected["token_type_ids"]
    assert inputs["attention_mask"].sum(1).tolist() == [len(ids), 5]


def test_long_pairs_lose_the_start_of_their_prompt(encoder):
    _, tokenizer = encoder
    full = encode_pair(tokenizer, PROMPT, "it is 3", 512, "")
    truncated = encode_pair(tokenizer, PROMPT, "it is 3", len(full) - 2, "")
    assert truncated == [full[0], *full[3:]]
    answer = tokenizer("it is 3", add_special_tokens=False)["input_ids"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    shortest = encode_pair(tokenizer, PROMPT, "it is 3", 5, "")
    assert shortest == [cls, sep, *answer[-2:], sep]  # the answer to a question stands at the end of a response


def test_decoders_read_what_a_policy_would():
    tokenizer = load_tokenizer(from_folder(ROOT / "models" / "base" / "policy"), scoring_params())
    ids = encode_pair(tokenizer, PROMPT, "3", 512, "")
    assert ids == encode_prompt(tokenizer, PROMPT, "") + encode_response(tokenizer, "3")


def test_pairs_are_framed_by_their_tokenizers_own_marks():
    prompt = [{"role": "user", "content": "ab"}]
    assert encode_pair(RobertaMarks(), prompt, "c", 512, "") == RobertaMarks()("ab", "c")["input_ids"]
    assert encode_pair(RobertaMarks(), prompt, "c", 6, "") == [0, ord("b"), 2, 2, ord("c"), 2]


def test_bert_positions_limit_the_pair(encoder):
    assert max_pair_length(encoder[0], 4096) == 512
    assert max_pair_length(encoder[0], 100) == 100
