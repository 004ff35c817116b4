"""Parameters of pin_models."""

from anchora.params import StageParams, Text


class PinModelsParams(StageParams):
    base_model_name: Text
    reward_model_name: Text
    judge_model_name: Text
    verifier_paths: list[Text]
