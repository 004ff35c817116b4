"""The parameter model of each stage of dvc.yaml, and every key of them all. No stage imports this: a change here reruns none."""

from pydantic import Field
from pydantic.fields import FieldInfo

from anchora.evaluation.answer_params import AnswerParams
from anchora.evaluation.params import EvaluateParams
from anchora.evaluation.rounds_params import RoundsParams
from anchora.regret.params import BuildRegretBufferParams
from anchora.run.params import Parameters, StageParams
from anchora.uncertainty.params import MeasureParams
from anchora.update.params import UpdatePolicyParams
from parameters.export import ExportParams
from parameters.harness import HarnessParams
from parameters.pin_models import PinModelsParams
from parameters.prepare_data import PrepareDataParams
from parameters.score_uncertainty import ScoreUncertaintyParams
from parameters.sft import SftParams
from parameters.train_reward import TrainRewardParams

PARAMS_BY_STAGE: dict[str, type[StageParams]] = {
    "prepare_data": PrepareDataParams,
    "pin_models": PinModelsParams,
    "sft": SftParams,
    "train_reward": TrainRewardParams,
    "train_judge": TrainRewardParams,
    "calibrate_uncertainty": MeasureParams,
    "score_uncertainty": ScoreUncertaintyParams,
    "build_regret_buffer": BuildRegretBufferParams,
    "update_policy": UpdatePolicyParams,
    "export": ExportParams,
    "answer_baseline": AnswerParams,
    "harness_baseline": HarnessParams,
    "harness": HarnessParams,
    "evaluate": EvaluateParams,
    "report": RoundsParams,
}


class DagParams(Parameters):
    """The key that dvc.yaml reads itself, and no stage."""

    launcher: str = Field(
        "sh stages/with_python.sh",
        description="Command that starts the stages that hold a model: stages/with_python.sh, which finds Python, or accelerate launch "
        "with its options, for several GPUs.",
    )


def all_fields() -> dict[str, FieldInfo]:
    """Return the field of every key of params.yaml: its type, range, default and description."""
    models: list[type[Parameters]] = [*PARAMS_BY_STAGE.values(), DagParams]
    return {key: field for model in models for key, field in model.model_fields.items()}
