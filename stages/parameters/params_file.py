"""The text of params.yaml with all defaults, made from the parameter models; `python ugrr_pipeline.py configure --reset` writes it.

No stage imports this: a change here reruns none.
"""

import textwrap

import yaml
from pydantic_core import to_jsonable_python

from parameters.by_stage import all_fields
from parameters.changes import inline

# Every key in its place: the parts of params.yaml and docs/parameters.md, the groups of each part, and the keys of each group.
PARTS: dict[str, list[list[str]]] = {
    "1. What people set: models, data, lengths, batches, epochs, KL, verifiers, rounds": [
        ["base_model_name", "reward_model_name", "judge_model_name"],
        ["sft_data_path", "preference_data_path", "regret_prompts_path", "calibration_path"],
        ["gsm8k_path", "alpaca_eval_path", "mt_bench_path", "harness_tasks"],
        ["output_dir", "seed", "limit"],
        ["max_length", "max_new_tokens"],
        ["batch_size", "grad_accum_steps", "use_bf16", "lora_rank", "lora_alpha", "load_in_4bit"],
        ["sft_epochs", "reward_epochs", "rl_iterations", "kl_beta_min", "kl_beta_max"],
        ["verifiers", "verifier_functions", "rounds"],
    ],
    "2. What one tunes: machine, splits, sampling, uncertainty, regret buffer, update, judge": [
        ["launcher", "device", "cpu_threads", "deterministic", "log_dir", "trackers", "trust_remote_code"],
        ["attn_implementation", "liger_kernels", "compile_layers", "gradient_checkpointing"],
        ["prompt_limit", "regret_share", "calibration_share", "judge_share", "heldout_share", "member_share"],
        ["prompt_template", "enable_thinking", "overlong_prompts", "gsm8k_shots", "stop_strings", "answer_reading"],
        ["assistant_loss", "sft_learning_rate", "reward_learning_rate", "verifier_accuracy_floor"],
        ["verifier_paths", "verifier_judge", "verifier_dtype", "verifier_timeout"],
        ["sampler", "vllm_tensor_parallel"],
        ["samples_per_prompt", "temperature", "top_p", "sampling_batch_size", "scoring_batch_tokens"],
        ["uncertainty_dropout_samples", "uncertainty_dropout_rate", "uncertainty_dropout_layers"],
        ["uncertainty_quantile", "regret_threshold", "regret_penalty", "chosen_margin", "chosen_uncertainty_cap"],
        ["buffer_size", "anchor_count"],
        ["update_learning_rate", "update_batch_tokens", "replays_per_case"],
        ["chosen_nll_weight", "anchor_weight", "kl_budget", "kl_check_steps"],
        ["export_format", "evaluation_samples", "harness_limit", "target_risk", "risk_confidence"],
        ["judge_model", "judge_base_url", "judge_requests_per_minute", "judge_parallel_requests", "judge_timeout", "judge_retries"],
        ["judge_price_prompt", "judge_price_completion"],
    ],
    "3. What studies switch: the forms that the method can take": [
        ["gate", "case_weight", "replay"],
        ["dpo_weight", "dpo_loss", "uncertainty_dropout_mode"],
    ],
}
# These stand at the end of the file whatever their part: `dvc exp run -S` writes every list anew, without the comment behind it.
LISTS = ["trackers", "stop_strings", "harness_tasks", "verifier_paths", "verifier_functions", "verifiers", "rounds"]
LISTS_TITLE = "Lists of the parts above; last, because DVC's -S drops a comment that stands behind a list"
HEAD = (
    "Every parameter of the pipeline. docs/parameters.md says what each may be and which stages rerun when it changes; "
    "`python ugrr_pipeline.py configure --reset` writes this file anew with all defaults."
)
WIDTH = 100


def keys_of(part: str) -> list[str]:
    """Return the keys of a part in order."""
    return [key for group in PARTS[part] for key in group]


def defaults() -> dict:
    """Return the default of every key as plain values, part by part."""
    fields = all_fields()
    return {key: to_jsonable_python(fields[key].default) for part in PARTS for key in keys_of(part)}


def params_text() -> str:
    """Return params.yaml with all defaults: the three parts under banners, every key under its description, lists last."""
    values, fields = defaults(), all_fields()
    sections = [comment(HEAD)]
    for part, groups in PARTS.items():
        sections.append(banner(part))
        for group in groups:
            keys = [key for key in group if key not in LISTS]
            sections += ["\n".join(f"{comment(fields[key].description)}\n{entry(key, values[key])}" for key in keys)] if keys else []
    comments = [comment(f"{key}: {fields[key].description}") for key in LISTS]
    sections += [banner(LISTS_TITLE), "\n".join([*comments, *(entry(key, values[key]) for key in LISTS)])]
    return "\n\n".join(sections) + "\n"


def banner(title: str) -> str:
    """Return a comment that stands out."""
    rule = "#" * WIDTH
    return f"{rule}\n{comment(title)}\n{rule}"


def comment(text: str | None) -> str:
    """Return ``text`` as a comment of YAML, wrapped at ``WIDTH`` columns."""
    return textwrap.fill(text or "", WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False)


def entry(key: str, value) -> str:
    """Return a key and its value as YAML; a list has a line for each of its items."""
    return f"{key}: {inline(value)}" if isinstance(value, str) else yaml.safe_dump({key: value}, sort_keys=False).rstrip("\n")
