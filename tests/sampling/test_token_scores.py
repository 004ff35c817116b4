"""The scoring pass behind another sampler: entropies and log-probs of given ids are those that our own sampler has while it draws."""

import pytest
import torch
from tiny_models import END, PAIRS

from anchora.model.logps import response_logps
from anchora.sampling.responses import generate
from anchora.sampling.vllm_engine import token_scores

PROMPTS = [prompt for prompt, _ in PAIRS]


def drawn_by_ours(model) -> list[tuple[list[int], ...]]:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(8)  # so that a token at a wrong position moves entropies by a tenth and more
    return generate(model, END, PROMPTS, samples=4, temperature=1.0, max_new_tokens=8, responses_at_once=12, seed=0)


@pytest.mark.parametrize("budget", [4096, 12])
def test_entropies_are_those_of_the_sampler_to_1e_4(model, budget):
    """In one line for all samples of a prompt, or, where that is too long for a batch, in a line for each."""
    responses = drawn_by_ours(model)
    rows = [(prompt, *(one.ids for one in of_prompt)) for prompt, of_prompt in zip(PROMPTS, responses, strict=True)]
    scores = token_scores(model, rows, END.pad_token_id, budget)
    logps = response_logps(model, rows, END.pad_token_id, 4096)
    for prompt, of_prompt in enumerate(responses):
        for number, response in enumerate(of_prompt):
            entropies, ours = zip(*scores[prompt][number], strict=True)
            assert entropies == pytest.approx(response.entropies, abs=1e-4)
            assert sum(entropies) / len(entropies) == pytest.approx(response.entropy, abs=1e-4)
            assert ours == pytest.approx(logps[prompt][number], abs=1e-4)
            assert max(response.entropies) > 0.1


def test_a_prompt_is_computed_once_for_its_samples(model):
    rows = [(prompt, [5, 6, 2], [7, 2]) for prompt in PROMPTS]
    read = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, args, named: read.append((args or [named["input_ids"]])[0].numel()), with_kwargs=True
    )
    token_scores(model, rows, END.pad_token_id, 4096)
    hook.remove()
    assert read[-1] == 3 * (5 + 3 + 2)  # three lines, the longest with a prompt of five tokens
