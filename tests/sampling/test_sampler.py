"""Which sampler gets what: our own loop draws greedy responses beside samples, vLLM by themselves."""

from conftest import params_as

from anchora.sampling import sampler
from anchora.sampling.params import SamplingParams
from anchora.sampling.responses import Request


def test_vllm_draws_at_one_temperature_and_greedy_responses_still_come_first(monkeypatch):
    def drawn(_model, _tokenizer, requests, _params, _seed):
        assert not any(request.greedy_first for request in requests)
        return [
            [[f"{request.temperature} {prompt} {j}" for j in range(request.samples)] for prompt in request.prompts] for request in requests
        ]

    monkeypatch.setattr(sampler, "sample_by_vllm", drawn)
    requests = [Request("responses", [[1], [2]], 2, 0.7, greedy_first=True), Request("cases", [[3]])]
    responses = sampler.sample_responses(None, None, requests, params_as(SamplingParams, sampler="vllm"), seed=0)
    assert responses == [
        [["0.0 [1] 0", "0.7 [1] 0", "0.7 [1] 1"], ["0.0 [2] 0", "0.7 [2] 0", "0.7 [2] 1"]],
        [["0.0 [3] 0"]],
    ]
    assert [request.of_prompt() for request in requests] == [3, 1]
