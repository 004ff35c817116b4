"""Parameters of pin_models."""

from pydantic import Field

from anchora.evaluation.harness_params import HarnessTasksParams
from anchora.model.params import ExportFormatParams
from anchora.run.params import ModelStageParams, NonEmptyStr
from anchora.training.tracker_params import TrackersParams
from anchora.verifiers.params import MembersParams, VerifierDtypeParams


class PinModelsParams(ModelStageParams, ExportFormatParams, MembersParams, VerifierDtypeParams, HarnessTasksParams, TrackersParams):
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
