"""Parameters that cannot be: one line each, that names the key, the value and what is allowed."""

import pytest
import ugrr_pipeline
import yaml
from conftest import ROOT

from anchora.run.errors import UserError

CONTRADICTIONS = {
    "betas the wrong way round": ({"kl_beta_min": 2.0, "kl_beta_max": 1.0}, ["kl_beta_min: 2.0", "at most kl_beta_max = 1.0"]),
    "no room for a prompt": ({"max_new_tokens": 512, "max_length": 512}, ["max_new_tokens: 512", "below max_length"]),
    "a margin above its threshold": ({"chosen_margin": 1.0, "regret_threshold": 0.5}, ["chosen_margin: 1.0"]),
    "no examples at once": ({"batch_size": 0}, ["batch_size: 0", "greater than or equal to 1"]),
    "a share above 1": ({"judge_share": 1.5}, ["judge_share: 1.5", "less than or equal to 1"]),
    "data outside of the project": ({"sft_data_path": "a/../../b.json"}, ["sft_data_path", "inside the project"]),
    "one sample": ({"samples_per_prompt": 1}, ["samples_per_prompt: 1", "2"]),
    "a seed below 0": ({"seed": -1}, ["seed: -1", "greater than or equal to 0"]),
    "a seed too large": ({"seed": 2**31}, ["seed: 2147483648", "less than"]),
    "a judge's address that is none": ({"judge_base_url": "localhost:80"}, ["judge_base_url", "http"]),
    "a key in an address": ({"judge_base_url": "http://me:secret@host"}, ["judge_base_url", "ANCHORA_JUDGE_API_KEY"]),
    "shares that take everything": ({"regret_share": 0.6, "calibration_share": 0.5}, ["regret_share: 0.6", "below 1"]),
    "one dropout sample": ({"uncertainty_dropout_samples": 1}, ["uncertainty_dropout_samples: 1"]),
    "a beta of 0": ({"kl_beta_min": 0.0}, ["kl_beta_min: 0.0", "greater than 0"]),
    "an infinite budget": ({"kl_budget": float("inf")}, ["kl_budget: inf", "finite"]),
    "not a number": ({"update_learning_rate": float("nan")}, ["update_learning_rate: nan"]),
    "text for a number": ({"rl_iterations": "many"}, ["rl_iterations: 'many'", "integer"]),
    "half a step": ({"rl_iterations": 1.5}, ["rl_iterations: 1.5", "integer"]),
    "an unknown mode": ({"gate": "gated"}, ["gate: 'gated'", "'pair', 'batch', 'none' or 'shuffled'"]),
    "a template without its prompt": ({"prompt_template": "Answer:"}, ["prompt_template: 'Answer:'", "{prompt}"]),
    "outputs outside of the project": ({"output_dir": "../elsewhere"}, ["output_dir: '../elsewhere'", "inside the project"]),
    "outputs at the root": ({"output_dir": "/models"}, ["output_dir: '/models'", "inside the project"]),
    "logs outside of the project": ({"log_dir": "a/../../b"}, ["log_dir: 'a/../../b'", "inside the project"]),
    "the project itself": ({"output_dir": "."}, ["output_dir: '.'"]),
    "an unknown device": ({"device": "tpu"}, ["device: 'tpu'", "'auto', 'cuda' or 'cpu'"]),
    "an unknown key": ({"kl_beta_maximum": 1.0}, ["kl_beta_maximum", "did you mean kl_beta_max?"]),
    "no rounds": ({"rounds": []}, ["rounds: []", "at least one round"]),
    "a round after itself": ({"rounds": [{"k": 0, "after": "round0"}]}, ["entry 0 must be {k: 0, after: sft}"]),
    "rounds in a circle": ({"rounds": [{"k": 0, "after": "round1"}, {"k": 1, "after": "round0"}]}, ["entry 0 must be"]),
    "a round left out": ({"rounds": [{"k": 0, "after": "sft"}, {"k": 2, "after": "round1"}]}, ["entry 1 must be {k: 1, after: round0}"]),
    "a round twice": ({"rounds": [{"k": 0, "after": "sft"}, {"k": 0, "after": "sft"}]}, ["entry 1 must be"]),
    "rounds as numbers": ({"rounds": [0, 1]}, ["rounds.0: 0"]),
    "a member by name": ({"verifiers": ["first"]}, ["verifiers.0: 'first'"]),
    "two members below 0": ({"verifiers": [-1, -1]}, ["verifiers.0: -1 is not allowed", "equal to 0"]),
    "two empty stop strings": ({"stop_strings": ["", ""]}, ["stop_strings.0: ''"]),
    "a round without keys": ({"rounds": [{}]}, ["rounds.0.k: missing"]),
    "a round of nothing": ({"rounds": [{"k": None, "after": None}]}, ["rounds.0.k: None is not allowed", "integer"]),
    "a word for a beta": ({"kl_beta_min": "aut"}, ["kl_beta_min: 'aut' is not allowed: input should be 'auto' or"]),
    "a member twice": ({"verifiers": [0, 0]}, ["verifiers: [0, 0]", "twice"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_parameters_that_cannot_be_are_refused_in_one_line(name):
    changes, words = CONTRADICTIONS[name]
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | changes
    with pytest.raises(UserError) as error:
        ugrr_pipeline.check(values, {}, "")
    assert "\n" not in str(error.value) and "secret" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("output_dir", ["linked", "linked/models"])
def test_a_linked_output_dir_is_refused_before_anything_runs(tmp_path, monkeypatch, output_dir):
    """DVC refuses it as well, but only when the stage has run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"output_dir": output_dir}
    with pytest.raises(UserError, match="output_dir: .* linked is a symbolic link"):
        ugrr_pipeline.check(values, {}, "")
