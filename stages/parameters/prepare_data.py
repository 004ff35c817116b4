"""Parameters of prepare_data."""

from pydantic import model_validator

from anchora.run.params import CountOrZero, InsidePath, Seed, Share, StageParams


class PrepareDataParams(StageParams):
    seed: Seed
    sft_data_path: InsidePath
    preference_data_path: InsidePath
    regret_prompts_path: InsidePath
    calibration_path: InsidePath
    gsm8k_path: InsidePath
    gsm8k_shots: CountOrZero
    alpaca_eval_path: InsidePath
    mt_bench_path: InsidePath
    regret_share: Share
    calibration_share: Share
    judge_share: Share
    prompt_limit: CountOrZero

    @model_validator(mode="after")
    def shares_leave_something(self):
        if self.regret_share + self.calibration_share >= 1:
            raise ValueError(
                f"regret_share: {self.regret_share} with calibration_share = {self.calibration_share} leaves nothing to train on; "
                "their sum must be below 1"
            )
        return self
