"""Parameters of prepare_data."""

from pydantic import Field, model_validator

from anchora.correctness.params import AnswerReadingParams
from anchora.run.params import ProjectPath, SeedParams, StageParams
from anchora.verifiers.judge_params import JudgeModelParams
from anchora.verifiers.params import MembersParams


class PrepareDataParams(StageParams, SeedParams, AnswerReadingParams, MembersParams, JudgeModelParams):
    sft_data_path: ProjectPath = Field(
        "data/sft.json",
        description="Prompts with completions for SFT: JSON, JSON Lines, CSV, Parquet, or a pointer {hub, revision, split}.",
    )
    preference_data_path: ProjectPath = Field(
        "data/preferences.json",
        description="Pairs of responses with the preferred one, for verifiers and judge: JSON, JSON Lines, CSV, Parquet, or a pointer "
        "{hub, revision, split}. May be an empty file where verifiers is empty; there is then no judge.",
    )
    regret_prompts_path: ProjectPath = Field(
        "data/regret_prompts.jsonl",
        description="Prompts alone for the regret loop: JSON, JSON Lines, CSV, Parquet, or a pointer {hub, revision, split}. What else a "
        "row holds, such as its answer, is what verifier_functions are called with. An empty file keeps regret_share of the other prompts "
        "for it.",
    )
    calibration_path: ProjectPath = Field(
        "data/calibration.jsonl",
        description="Problems with known answers in GSM8K's format, for the scales of uncertainty, the weights of cases and abstention. An "
        "empty file keeps calibration_share of the SFT prompts for that.",
    )
    gsm8k_path: ProjectPath = Field("data/gsm8k.jsonl", description="Problems that exact match is measured on, in GSM8K's format.")
    alpaca_eval_path: ProjectPath = Field(
        "data/alpaca_eval.json", description="AlpacaEval's prompts in its own format, for the win rate; may be an empty file."
    )
    mt_bench_path: ProjectPath = Field(
        "data/mt_bench.jsonl", description="MT-Bench's questions in its own format, for the win rate over two turns; may be an empty file."
    )
    gsm8k_shots: int = Field(
        0,
        ge=0,
        description="Solved problems of calibration_path that stand, as turns, before each problem of it and of gsm8k_path. Regret prompts "
        "and ask.py go without.",
    )
    regret_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of the SFT and preference prompts that is kept for the regret loop where regret_prompts_path is an empty file, "
        "decided by the hash of each prompt. With calibration_share it must stay below 1.",
    )
    calibration_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the SFT prompts that is kept for calibration where calibration_path is an empty file, decided by the hash of "
        "each prompt. With regret_share it must stay below 1.",
    )
    judge_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Share of the preference prompts that the judge learns from, decided by the hash of each prompt; the ensemble never "
        "sees them.",
    )
    prompt_limit: int = Field(
        0,
        ge=0,
        description="How many prompts the regret loop takes, and how many the calibration split, chosen by their hash; 0 takes all.",
    )

    @model_validator(mode="after")
    def shares_leave_something(self):
        if self.regret_share + self.calibration_share >= 1:
            raise ValueError(
                f"regret_share: {self.regret_share} with calibration_share = {self.calibration_share} leaves nothing to train on; "
                "their sum must be below 1"
            )
        return self
