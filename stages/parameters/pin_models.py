"""Parameters of pin_models."""

from pydantic import Field

from anchora.evaluation.harness_params import HarnessTasksParams
from anchora.model.params import ExportFormatParams
from anchora.run.params import ModelStageParams, NonEmptyStr
from anchora.sampling.params import SamplerParams
from anchora.training.tracker_params import TrackersParams
from anchora.verifiers.judge_params import JudgeParams
from anchora.verifiers.params import MembersParams, VerifierDtypeParams


class PinModelsParams(
    ModelStageParams, ExportFormatParams, SamplerParams, MembersParams, VerifierDtypeParams, JudgeParams, HarnessTasksParams, TrackersParams
):
    base_model_name: str = Field(
        "models/base/policy",
        min_length=1,
        description="The policy before SFT: a folder in the project, which may be a PEFT adapter's, owner/name@<commit> on the hub, or "
        "the alias mistral-7b. An adapter is trained on where lora_rank and lora_alpha are its own; at lora_rank 0 it is merged.",
    )
    reward_model_name: str = Field(
        "models/base/encoder",
        description="The encoder (or decoder) that verifiers are trained from, under a new head with one logit: a folder in the project, "
        "owner/name@<commit> on the hub, or an alias (bert-base-uncased, mistral-7b). A PEFT adapter's folder is merged into its base "
        "first. May be empty where verifiers is.",
    )
    judge_model_name: str = Field(
        "models/base/judge_encoder",
        description="The encoder (or decoder) that the judge is trained from, which only evaluation sees: a folder in the project, "
        "owner/name@<commit> on the hub, or an alias (bert-base-uncased, mistral-7b). A PEFT adapter's folder is merged into its base "
        "first. It should differ from the verifiers' model, so that it shares no errors with them. May be empty where "
        "preference_data_path is an empty file.",
    )
    verifier_paths: list[NonEmptyStr] = Field(
        [],
        description="Reward models made elsewhere that join the ensemble: folders in the project, which may be PEFT adapters', or "
        "owner/name@<commit> on the hub.",
    )
    verifier_judge: str = Field(
        "",
        description="Model behind the endpoint of judge_base_url that grades responses for the regret buffer, as a member of the ensemble; "
        "off while empty. It must be another than judge_model. Limits and prices are those of the other judge_* keys, and its key is read "
        "from ANCHORA_JUDGE_API_KEY, too.",
    )

    def verifier_judge_settings(self) -> dict:
        """Return what asks ``verifier_judge``, as JudgeParams; ``{}`` where there is none.

        The stages that score read it from a file: had they these parameters, a change of the judge that evaluates would rerun them.
        """
        settings = {
            "judge_model": self.verifier_judge,
            "judge_base_url": self.judge_base_url,
            "judge_requests_per_minute": self.judge_requests_per_minute,
            "judge_parallel_requests": self.judge_parallel_requests,
            "judge_timeout": self.judge_timeout,
            "judge_retries": self.judge_retries,
            "judge_price_prompt": self.judge_price_prompt,
            "judge_price_completion": self.judge_price_completion,
        }
        return settings if self.verifier_judge else {}
