"""The key of every stage that has to know which tasks of lm-evaluation-harness are run."""

import re

from pydantic import Field, field_validator

from anchora.run.params import NonEmptyStr, Parameters


class HarnessTasksParams(Parameters):
    harness_tasks: list[NonEmptyStr] = Field(
        [],
        description="Tasks of lm-evaluation-harness that both policies are asked as well, by name: its own (gsm8k, ifeval), or those of "
        "YAML files in a folder each below data/tasks, such as example. Needs `pip install lm_eval==0.4.13`.",
    )

    @field_validator("harness_tasks")
    @classmethod
    def names_once(cls, tasks: list[str]) -> list[str]:
        for number, name in enumerate(tasks):
            if not re.fullmatch(r"\w[\w.()-]*", name):
                raise ValueError(f"{name!r} must be a task's name, as its YAML file has it behind `task:`; the file lies below data/tasks")
            if name in tasks[:number]:
                raise ValueError(f"{name!r} is named twice")
        return tasks
