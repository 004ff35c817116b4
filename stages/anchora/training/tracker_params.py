"""The key of every stage that tells trackers how it goes."""

from typing import Literal

from pydantic import Field, field_validator

from anchora.run.params import Parameters


class TrackersParams(Parameters):
    trackers: list[Literal["tensorboard", "trackio", "wandb", "mlflow", "dvclive"]] = Field(
        [],
        description="What logs the figures of SFT, reward training and the update step by step, and those of the evaluation: tensorboard, "
        "trackio, wandb, mlflow, dvclive. Each must be installed; they write below log_dir, or where their own settings say.",
    )

    @field_validator("trackers")
    @classmethod
    def once(cls, trackers: list[str]) -> list[str]:
        if len(set(trackers)) < len(trackers):
            raise ValueError("names a tracker twice")
        return trackers
