"""A policy that is asked a task by the harness: prompts as it was trained on, figures that are the harness's own, nothing cached."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
import trl
from adapter_policies import after_sft
from conftest import ROOT, params_as
from harness_tasks import CHOICES, LABELLED, QUESTIONS, write_task

from anchora.evaluation import harness_tasks
from anchora.evaluation.harness_runs import as_harness_model, ask
from anchora.evaluation.harness_tasks import harness_log, load_task
from anchora.model.loading import load_policy
from anchora.model.prompts import FIXED_DAY, encode_prompt
from parameters.harness import HarnessParams

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")
PARAMS = params_as(HarnessParams)


@pytest.fixture(autouse=True)
def own_index(here, monkeypatch):
    """The tasks of this test's folder alone."""
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(harness_tasks, "task_manager", lambda with_own: TaskManager(include_path="data/tasks", include_defaults=False))


@pytest.fixture
def lm(policy):
    """The demo's base policy, in the harness's hands."""
    model, tokenizer = policy
    return as_harness_model(model, copy.deepcopy(tokenizer), PARAMS, batch_size=4)


def with_bos(tokenizer):
    """A copy of a tokenizer that puts BOS before and EOS behind every text, with a chat template that asks for neither, as ChatML does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<b> $A <b>".replace("<b>", tokenizer.eos_token), special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    tokenizer.chat_template = "{% for message in messages %}<|user|>{{ message['content'] }}<|assistant|>{% endfor %}"
    return tokenizer


def greedy(model, tokenizer, question: str) -> str:
    """A policy's answer by transformers alone, in 12 tokens, as far as an empty line."""
    ids = encode_prompt(tokenizer, [{"role": "user", "content": question}], PARAMS.prompt_template)
    with torch.no_grad():
        generated = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(generated[0][len(ids) :], skip_special_tokens=True).split("\n\n")[0]


@pytest.mark.parametrize("change", [copy.deepcopy, with_bos])
def test_a_prompt_has_the_tokens_that_the_policy_was_trained_on(policy, change):
    model, tokenizer = policy[0], change(policy[1])
    expected = encode_prompt(tokenizer, [{"role": "user", "content": "What is 2 plus 2?"}], PARAMS.prompt_template)
    lm = as_harness_model(model, tokenizer, PARAMS, batch_size=4)
    prompt = lm.apply_chat_template([{"role": "user", "content": "What is 2 plus 2?"}])
    ids, mask = lm.tok_batch_encode([prompt])
    assert ids[0].tolist() == lm.tok_encode(prompt) == expected and mask.all()


def test_a_chat_template_of_its_own_is_used_and_its_date_is_fixed(policy):
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = "{{ strftime_now('%Y') }} {{ messages[0]['content'] }}"
    lm = as_harness_model(policy[0], tokenizer, PARAMS, batch_size=4)
    assert lm.apply_chat_template([{"role": "user", "content": "hello"}]) == f"{FIXED_DAY.year} hello"


QWEN3 = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"


@pytest.mark.parametrize(
    ("wanted", "thinks", "end"),
    [(None, True, "</think>"), (True, True, "</think>"), (False, True, None), (None, False, None), (True, False, "</think>")],
)
def test_thoughts_are_no_part_of_answers_unless_the_policy_is_told_not_to_think(policy, wanted, thinks, end):
    """Null leaves it to the template, and Qwen3's thinks. The harness strips the beginning of every answer where it looks for thoughts."""
    tokenizer = copy.deepcopy(policy[1])
    tokenizer.chat_template = QWEN3.read_text(encoding="utf-8") if thinks else tokenizer.chat_template
    assert as_harness_model(policy[0], tokenizer, params_as(HarnessParams, enable_thinking=wanted), batch_size=4).think_end_token == end


def test_an_answer_is_the_policys_own_greedy_one(policy, lm):
    write_task()
    _, rows = ask(load_task("sums"), lm, 0)
    for row, question in zip(rows, QUESTIONS, strict=True):
        assert row["resps"] == [[greedy(*policy, question["question"])]]


@pytest.mark.parametrize("in_4bit", [False, True])
def test_an_adapter_is_asked_over_its_base(policy, tmp_path, monkeypatch, in_4bit):
    """As load_policy holds it, in four bits too: its answers are its own, and not its base's."""
    if in_4bit:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    params = params_as(HarnessParams, lora_rank=4, load_in_4bit=in_4bit)
    _, _, pretrained = after_sft(tmp_path, monkeypatch, lora_rank=4, load_in_4bit=in_4bit)
    model, tokenizer = load_policy(pretrained, params)
    write_task()
    _, rows = ask(load_task("sums"), as_harness_model(model, tokenizer, params, batch_size=4), 0)
    _, of_base = ask(load_task("sums"), as_harness_model(policy[0], copy.deepcopy(policy[1]), params, batch_size=4), 0)
    answers = [row["resps"][0][0] for row in rows]
    assert answers == [greedy(model, tokenizer, question["question"]) for question in QUESTIONS]
    assert answers != [row["resps"][0][0] for row in of_base]


def test_the_figure_is_the_mean_of_the_rows_and_what_lm_eval_finds_itself(lm):
    """Held against ``lm_eval.simple_evaluate`` on the same model, with the options that its command line has for chat models."""
    write_task()
    write_task("choices", rows=LABELLED, **CHOICES)
    for name, key in (("sums", "exact_match,last"), ("choices", "acc,none")):
        results, rows = ask(load_task(name), lm, 0)
        figure = results["parts"][name]["figures"][key]
        theirs = lm_eval.simple_evaluate(
            model=lm, tasks=[name], task_manager=harness_tasks.task_manager(False), apply_chat_template=True, bootstrap_iters=0
        )
        assert figure["value"] == theirs["results"][name][key] == sum(row[figure["metric"]] for row in rows) / len(rows)
        assert figure["aggregation"] == "mean" and figure["higher_is_better"]
        assert [row["doc_hash"] for row in rows] == [row["doc_hash"] for row in theirs["samples"][name]]


def test_the_same_task_gives_the_same_bytes(lm):
    write_task(num_fewshot=2, fewshot_split="test")
    first, second = (json.dumps(ask(load_task("sums"), lm, 0)) for _ in range(2))
    assert first == second


def test_a_limit_asks_the_first_questions(lm):
    write_task()
    results, rows = ask(load_task("sums"), lm, 5)
    assert results["limit"] == 5 and results["parts"]["sums"]["questions"] == 5
    assert [row["doc"] for row in rows] == QUESTIONS[:5]


def test_another_model_is_asked_itself(policy, lm):
    """The harness's cache knows a prompt alone, and would give one model the answers of another."""
    write_task()
    before = ask(load_task("sums"), lm, 0)[1]
    other = copy.deepcopy(policy[0])
    torch.nn.init.zeros_(other.lm_head.weight)
    after = ask(load_task("sums"), as_harness_model(other, copy.deepcopy(policy[1]), PARAMS, batch_size=4), 0)[1]
    assert all(one["resps"] != another["resps"] for one, another in zip(before, after, strict=True))


def test_prompts_that_lose_their_beginning_are_counted(policy, lm):
    rows = [*QUESTIONS[:3], {"question": "word " * 2 * lm.max_length, "answer": "1"}]
    write_task(rows=rows)
    results, found = ask(load_task("sums"), lm, 0)
    assert results["parts"]["sums"]["cut_prompts"] == 1 and [row["cut"] for row in found] == [False, False, False, True]


def test_what_the_harness_says_goes_to_a_log(here, capfd):
    write_task(metric_list=[{"metric": "exact_match"}], filter_list=None)
    with harness_log("logs") as path:
        load_task("sums")
        print("a figure")
        print("a warning", file=sys.stderr)
    assert path.read_text().endswith("a figure\na warning\n") and capfd.readouterr() == ("", "")


def test_the_demos_policy_reads_no_more_than_it_has_positions_for(lm):
    config = json.loads((ROOT / "models" / "base" / "policy" / "config.json").read_text())
    assert lm.max_length == config["max_position_embeddings"]
