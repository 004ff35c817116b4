"""What users of other tools reported this year, rebuilt as small inputs: docs/limits.md says which report is which."""

import dataclasses
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from adapter_policies import BASE, after_sft, sft_rows
from conftest import params_as
from tiny_models import MODELS, PAIRS
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import export
import sft
from anchora.model.loading import save_policy
from anchora.model.logps import response_logps
from anchora.model.pins import folder_hash, from_folder
from anchora.model.prompts import encode_prompt, encode_response
from anchora.run.errors import UserError
from anchora.sampling.responses import generate
from anchora.training import trainer as training
from parameters.export import ExportParams
from parameters.sft import SftParams

ASKED = [{"role": "user", "content": "What is 3 + 4?"}]
# As a model that thinks renders it: the prompt opens with empty thoughts, which a whole conversation does not have.
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n\n</think>\n\n{% endif %}"
)


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.mark.parametrize("template", [None, THINKING])
def test_the_loss_covers_the_response_alone_and_it_begins_where_sampling_begins(tokenizer, template):
    """huggingface/trl 6105: two tokens of each prompt were masked; 5213: the prompt was no beginning of prompt and response."""
    tokenizer.chat_template = template or tokenizer.chat_template
    row = {"prompt": ASKED, "completion": "7", "source": "x"}
    ((encoded,), _) = sft.encode_rows(tokenizer, [row], params_as(SftParams))
    asked = encode_prompt(tokenizer, ASKED, params_as(SftParams).prompt_template)
    assert len(asked) > 2 and encoded["input_ids"][: len(asked)] == asked
    assert encoded["labels"] == [-100] * len(asked) + encode_response(tokenizer, "7")
    assert encoded["labels"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("room", [-1, 0, 1])
def test_no_response_is_cut_to_nothing(tokenizer, room):
    """huggingface/trl 6548: behind a prompt as long as max_length the response was empty, and the loss not a number."""
    asked = len(encode_prompt(tokenizer, ASKED, params_as(SftParams).prompt_template))
    rows = [{"prompt": ASKED, "completion": "7 of them", "source": "data/x.json:1"}, {"prompt": ASKED, "completion": "", "source": "x"}]
    with pytest.raises(UserError, match="data/x.json:1: .* more than max_length"):
        sft.encode_rows(tokenizer, rows, params_as(SftParams, max_length=asked + room))
    if room < 1:
        with pytest.raises(UserError, match="all 2 examples are longer"):
            sft.encode_rows(tokenizer, rows, params_as(SftParams, max_length=asked + room, overlong_prompts="drop"))
    else:
        kept, dropped = sft.encode_rows(tokenizer, rows, params_as(SftParams, max_length=asked + room, overlong_prompts="drop"))
        assert dropped == 1 and [row["labels"][-1] for row in kept] == [tokenizer.eos_token_id]


def trained(folder, monkeypatch, stop_after=None, **more):
    """The weights that SFT leaves, which a signal stops behind ``stop_after`` updates."""
    steps = iter(range(1, 1000))

    @contextmanager
    def stopping():
        yield lambda: next(steps) == stop_after

    with monkeypatch.context() as patch:
        patch.setattr(training, "defer_signals", stopping)
        patch.setenv("ANCHORA_STAGE_SCRATCH", str(folder / "scratch"))
        params = params_as(SftParams, **{"batch_size": 4, "grad_accum_steps": 1, "sft_epochs": 3, "sft_learning_rate": 0.001} | more)
        model, tokenizer = sft.load_base(from_folder(BASE), params)
        rows, _ = sft.encode_rows(tokenizer, sft_rows(), params)
        trainer, _ = sft.fine_tune(model, tokenizer, rows, params)
    return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


@pytest.mark.parametrize("stop_after", [4, 6, 8])
def test_a_training_stopped_in_a_later_epoch_goes_on_in_that_epochs_order(tmp_path, monkeypatch, capsys, stop_after):
    """modelscope/ms-swift 10050: it took the order of the first epoch. Here an epoch has three updates."""
    whole = trained(tmp_path / "whole", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", monkeypatch, stop_after)
    parts = trained(tmp_path / "parts", monkeypatch)
    assert f"going on from step {stop_after}" in capsys.readouterr().out
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())


def test_an_update_in_parts_is_the_same_update(tmp_path, monkeypatch):
    """modelscope/ms-swift 10117: the loss was divided by the number of parts once more. Responses differ in length here."""
    whole, parts = trained(tmp_path / "a", monkeypatch), trained(tmp_path / "b", monkeypatch, batch_size=1, grad_accum_steps=4)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_what_else_is_in_a_batch_and_what_pads_it_changes_no_log_prob(name):
    """TransformerLensOrg/TransformerLens 1607: padding counted in the loss; 1609: rows padded on the left had other positions."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    alone = [response_logps(model, [pair], 0, 1)[0][0] for pair in PAIRS]
    for pad in (0, 96):
        together = response_logps(model, PAIRS, pad, 10_000)
        for ours, (theirs,) in zip(alone, together, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_greedy_response_is_that_of_the_prompt_alone(name):
    """TransformerLensOrg/TransformerLens 1609, where rows are padded on the left: in sampling."""
    from tiny_models import END

    torch.manual_seed(1)
    model, prompts = MODELS[name]().eval(), [prompt for prompt, _ in PAIRS]
    model.generation_config = GenerationConfig(eos_token_id=2)
    options = {"max_new_tokens": 8, "responses_at_once": 8, "seed": 0}
    together = [rows[0].ids for rows in generate(model, END, prompts, **options)]
    assert together == [generate(model, END, [prompt], **options)[0][0].ids for prompt in prompts]


def base_that_ends_otherwise(folder, ends):
    """The demo's base, whose generation settings name other ends of a response than its tokenizer's EOS."""
    shutil.copytree(BASE, folder)
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(settings | {"eos_token_id": ends}))
    return folder


@pytest.mark.parametrize("ends", [7, [7, 9]])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_an_exported_policy_stops_where_it_was_trained_to_stop(tmp_path, monkeypatch, tokenizer, ends, lora_rank):
    """unslothai/unsloth 5386: the merged model's files named another end than its training; EasyR1 11007: some ends were lost."""
    base = base_that_ends_otherwise(tmp_path / "base", ends)
    monkeypatch.setattr("adapter_policies.BASE", base)
    monkeypatch.setattr("adapter_policies.PIN", {"path": str(base), "sha256": folder_hash(base)})
    params = params_as(ExportParams, lora_rank=lora_rank)
    if lora_rank:
        _, _, policy = after_sft(tmp_path, monkeypatch, lora_rank=4, lora_alpha=8)
        export.write_policy(policy, tmp_path / "out", params)
    else:
        model, own_tokenizer = sft.load_base(from_folder(base), params_as(SftParams))
        save_policy(tmp_path / "out", model, own_tokenizer)
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = {tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends)}
    assert set(served.generation_config.eos_token_id) == expected
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id == tokenizer.eos_token_id


def test_a_merged_policy_stops_where_its_adapter_was_trained_to_stop(tmp_path, monkeypatch, tokenizer):
    """An adapter of chats over a plain base: its tokenizer ends answers by a token of its own. The base's may be gone."""
    _, _, policy = after_sft(tmp_path, monkeypatch, lora_rank=4, lora_alpha=8)
    base = tmp_path / "base"
    shutil.copytree(policy.base.source, base)
    for file in base.glob("*token*"):
        file.unlink()
    folder = Path(policy.source)
    chats = AutoTokenizer.from_pretrained(folder)
    chats.eos_token = chats.convert_ids_to_tokens(9)
    chats.save_pretrained(folder)
    export.write_policy(dataclasses.replace(policy, base=from_folder(base)), tmp_path / "out", params_as(ExportParams, lora_rank=4))
    ends = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config.eos_token_id
    assert 9 in (ends if isinstance(ends, list) else [ends]) and AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id == 9


def test_the_harness_adds_no_second_beginning(policy):
    """lang-uk/ukrainian-llm-leaderboard 5: lm-evaluation-harness put a BOS token before the one of the chat template."""
    pytest.importorskip("lm_eval")
    from tokenizers.processors import TemplateProcessing

    from anchora.evaluation.harness_runs import as_harness_model
    from anchora.model.params import ThinkingParams

    model, _ = policy
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    bos = tokenizer.eos_token
    tokenizer.bos_token = bos
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)])
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}"
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id  # by itself it adds one
    lm = as_harness_model(model, tokenizer, params_as(ThinkingParams), 1)
    ids = lm.tok_encode(lm.apply_chat_template(ASKED))
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids == encode_prompt(tokenizer, ASKED, "")
