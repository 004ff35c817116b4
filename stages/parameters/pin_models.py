"""Parameters of pin_models."""

from anchora.run.params import ModelStageParams, Text


class PinModelsParams(ModelStageParams):
    base_model_name: Text
    reward_model_name: Text
    judge_model_name: Text
    verifier_paths: list[Text]
