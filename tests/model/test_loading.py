"""Log-probs of responses against the models' own logits, on four architectures."""

import math
import shutil

import pytest
import torch
from conftest import params_as
from peft.tuners.lora import Linear
from tiny_models import MODELS, PAIRS, SIZES
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from anchora.model import logps
from anchora.model.batches import Batch, collate, row_length, token_budget_batches
from anchora.model.capabilities import can_share_prompts, check_head
from anchora.model.layers import compile_layers
from anchora.model.loading import check_positions, load_causal_lm
from anchora.model.logps import response_logps, sequence_logps, token_logps
from anchora.model.lora import add_lora
from anchora.model.params import ComputeParams
from anchora.model.pins import from_folder
from anchora.model.prompts import encode_prompt, encode_response, token_texts
from anchora.run.errors import UserError
from anchora.uncertainty.dropout import check_dropout


def test_sequence_logps_are_those_of_the_models_logits(model, monkeypatch):
    monkeypatch.setattr(logps, "CHUNK_LOGITS", 97 * 4)
    monkeypatch.setattr(logps, "CHUNK_TOKENS", 1)  # several chunks
    found = [logps for (logps,) in response_logps(model, PAIRS, 0, 64)]
    for (prompt, response), ours in zip(PAIRS, found, strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        expected = [logits[len(prompt) + i - 1, token].item() for i, token in enumerate(response)]
        assert ours == pytest.approx(expected, abs=1e-5)


def test_chunks_do_not_change_the_gradient(model, monkeypatch):
    gradients = []
    for chunk in (97 * 2, 2**24):
        monkeypatch.setattr(logps, "CHUNK_LOGITS", chunk)
        monkeypatch.setattr(logps, "CHUNK_TOKENS", 1)
        model.zero_grad()
        sequence_logps(model, collate(PAIRS, 0, "cpu")).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_the_gradient_of_a_log_prob_stands_in_the_place_of_the_logits():
    """d log p(t) / d logits = onehot(t) - softmax: at logits 0, ln 3 and target 0 that is 3/4, -3/4. A second pass is refused."""
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64, requires_grad=True) + 0  # no leaf
    ours = token_logps(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(ours, logits, torch.tensor([2.0], dtype=torch.float64), retain_graph=True)
    assert ours.item() == pytest.approx(math.log(0.25)) and gradient.tolist() == [pytest.approx([1.5, -1.5])]
    assert gradient.data_ptr() == logits.data_ptr()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(ours, logits, torch.ones(1, dtype=torch.float64))


def test_the_gradient_of_log_probs_is_that_of_autograd():
    torch.manual_seed(0)
    logits, targets, weights = torch.randn(50, 97, dtype=torch.float64), torch.randint(97, (50,)), torch.randn(50, dtype=torch.float64)
    found = []
    for function in (token_logps, lambda scores, at: scores.log_softmax(-1).gather(-1, at[:, None]).squeeze(-1)):
        scores = logits.clone().requires_grad_()
        values = function(scores + 0, targets)
        (values * weights).sum().backward()
        found.append((values.detach(), scores.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("vocabulary, tokens", [(97, [600]), (16384, [512, 88]), (128256, [256, 256, 88])])
def test_a_chunk_holds_32_mb_of_logits_or_256_tokens(vocabulary, tokens):
    """2^23 logits are 512 tokens of 16,384; of 128,256 they would be 65, which took 1.5 times as long as 261 on two cores."""
    seen: list[int] = []

    def first(logits: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return logits[:, 0]

    head = torch.nn.Linear(2, vocabulary, bias=False)
    with torch.no_grad():
        assert logps.map_logits(head, torch.ones(600, 2), first).shape == (600,)
    assert seen == tokens


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_compiled_layers_give_the_same_log_probs_and_gradients(model, checkpointed):
    """Of lines of one row and of several, of any length, chosen and rejected behind one prompt and apart."""
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = add_lora(model, 4, 4, 0)
    for module in model.modules():
        module.training = getattr(module, "gradient_checkpointing", False)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    several = [(prompt, response, response[:2]) for prompt, response in PAIRS]
    lines = [several, *([(list(range(2, 2 + n)), [7] * n, [8])] for n in (9, 30, 50))]

    def figures() -> list[torch.Tensor]:
        found = []
        for batch in [collate(rows, 0, "cpu", shared) for rows in lines for shared in (True, False)]:
            model.zero_grad()
            ours = sequence_logps(model, batch)
            ours.sum().backward()
            found += [ours.detach(), torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])]
        return found

    apart = figures()
    compile_layers(model)
    for ours, expected in zip(figures(), apart, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_lora_under_autocast_reads_its_input_as_it_is():
    """PEFT would cast it to float32, the adapters' own format, for autocast to cast it back: the same numbers, more memory."""
    seen, outputs = [], []
    for cast in (False, True):
        torch.manual_seed(0)
        model = add_lora(MODELS["mistral"]().to(torch.bfloat16), 4, 4, 0)
        for module in model.modules():
            if isinstance(module, Linear):
                torch.nn.init.normal_(module.lora_B["default"].weight, std=0.1)
                module.cast_input_dtype_enabled |= cast
                module.lora_A["default"].register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            outputs.append(sequence_logps(model, collate(PAIRS, 0, "cpu")))
    layers = len(seen) // 2
    assert layers == 28 and set(seen[:layers]) == {torch.bfloat16} and set(seen[layers:]) == {torch.float32}
    assert torch.equal(*outputs)


def test_a_model_that_scales_its_logits_is_refused():
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    check_head(model, 0)
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 30
        return output

    model.forward = scaled
    with pytest.raises(UserError, match="not supported"):
        check_head(model, 0)


def test_the_trained_and_the_sampled_response_start_at_the_same_token(policy):
    _, tokenizer = policy
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "2?"}], "") + encode_response(tokenizer, "4 eggs")
    chat = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "4 eggs"}]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(chat, tokenize=False)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids.count(tokenizer.eos_token_id) == 1


def test_a_prompt_without_tokens_is_refused():
    """The first token of a response is predicted at the prompt's last one: there would be none."""

    class Bare:
        eos_token, eos_token_id = "</s>", 2

        def __call__(self, text):
            return {"input_ids": list(text.encode())}

    assert encode_prompt(Bare(), [{"role": "user", "content": "a"}], "{prompt}") == [97]
    with pytest.raises(UserError, match="has no token"):
        encode_prompt(Bare(), [{"role": "user", "content": ""}], "{prompt}")


def test_the_eos_token_learns_where_it_pads_too(policy, tmp_path):
    """It stands between the turns of a conversation; torch gives the row of padding no gradient."""
    _, tokenizer = policy
    LlamaForCausalLM(LlamaConfig(**(SIZES | {"vocab_size": len(tokenizer)}), pad_token_id=1)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_causal_lm(from_folder(tmp_path), params_as(ComputeParams))
    sequence_logps(model, collate([([5, 1, 6], [7, 1])], 2, "cpu")).sum().backward()
    assert model.get_input_embeddings().weight.grad[[1, 5]].abs().sum(1).min() > 0


def test_token_budget_keeps_every_row_once():
    lengths = [5, 50, 7, 7, 100, 1]
    batches = token_budget_batches(lengths, 60)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60 for batch in batches)


def test_a_line_holds_a_prompt_and_one_response_or_all_of_them():
    """Responses are predicted from the position before; the second one, behind the first, from the prompt's last."""
    row = ([1, 2], [3], [4, 5])
    apart, together = collate([row], 0, "cpu"), collate([row], 0, "cpu", shared=True)
    assert isinstance(apart, Batch)
    assert apart.input_ids.tolist() == [[1, 2, 3, 0], [1, 2, 4, 5]]
    assert apart.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert apart.predicted_at.tolist() == [1, 5, 6]
    assert together.input_ids.tolist() == [[1, 2, 3, 4, 5]]
    assert together.position_ids.tolist() == [[0, 1, 2, 2, 3]]
    assert together.predicted_at.tolist() == [1, 1, 3]
    assert apart.targets.tolist() == together.targets.tolist() == [3, 4, 5]
    assert together.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert together.sums(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, 5.0]


def test_a_shared_prompt_gives_the_log_probs_of_separate_rows(model):
    rows = [([5, 6, 7], [8, 9, 2], [10]), ([11, 12], [13, 2], [14, 15, 16, 17]), ([3], [4, 2])]
    assert can_share_prompts(model, 0, 16)
    together, apart = (response_logps(model, rows, 0, 64, shared) for shared in (True, False))
    for ours, theirs in zip(together, apart, strict=True):
        for first, second in zip(ours, theirs, strict=True):
            assert first == pytest.approx(second, abs=1e-5)


def test_prompts_are_not_shared_where_the_mask_would_be_lost(model):
    model.config.sliding_window = 8
    assert not can_share_prompts(model, 0, 9) or not getattr(model.config, "use_sliding_window", True)
    model.config.sliding_window = None
    model.set_attn_implementation("eager")
    assert not can_share_prompts(model, 0, 9)  # adds its mask to the scores: a boolean one would do nothing


def test_a_model_that_also_sees_is_trained_on_text_alone():
    """Gemma 3's sizes and window stand in the configuration of its text part; its vision tower has no gradient of text."""
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 16,
    }
    text = SIZES | {"head_dim": 8, "sliding_window": 64, "max_position_embeddings": 128, "pad_token_id": 0}
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision)).eval()
    check_head(model, 0)
    check_dropout(model)
    assert can_share_prompts(model, 0, 64) and not can_share_prompts(model, 0, 65)
    with pytest.raises(UserError, match="reads 128 tokens at most"):
        check_positions(model, 129, {"pretrained_model_name_or_path": "gemma"})
    for rank in (0, 4):
        model.zero_grad()
        trained = add_lora(model, rank, 4, 0)
        sequence_logps(trained, collate(PAIRS, 0, "cpu")).sum().backward()
        assert all(weight.requires_grad == (weight.grad is not None) for weight in trained.parameters()), rank
        assert sum(weight.requires_grad for weight in trained.parameters()) > 4


def test_the_texts_of_tokens_are_the_whole(policy):
    tokenizer = policy[1]
    for text in ("7 + 8 = 15. #### 15", " caf\u00e9 \U0001f642 \u05e9\u05dc\u05d5\u05dd", "a  b\n c"):
        ids = encode_response(tokenizer, text)
        pieces = token_texts(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids[:-1]) and len(pieces) == len(ids) and pieces[-1] == ""


@pytest.mark.parametrize("shared", [True, False])
def test_the_token_budget_holds_for_what_a_batch_takes_with_its_padding(shared):
    """Chosen of 100 tokens and rejected of 5: two lines of 110 each where they stand apart, both as long as the longer one."""
    rows = [(list(range(10)), [1] * (100 - number), [2] * 5) for number in range(12)]
    for indices in token_budget_batches([row_length(row, shared) for row in rows], 700):
        assert collate([rows[index] for index in indices], 0, "cpu", shared).input_ids.numel() <= 700
