"""Ask a policy a task of lm-evaluation-harness, by the harness's own HFLM."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import numpy as np
import torch

from anchora.evaluation.harness_tasks import HarnessTask
from anchora.model.params import ThinkingParams
from anchora.model.positions import max_positions, max_steady_positions
from anchora.model.prompts import chat_template_of, dated_chat_template
from anchora.model.thinking import ENDS

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM


def as_harness_model(model, tokenizer, params: ThinkingParams, batch_size: int) -> HFLM:
    """Hand a loaded policy to the harness, which renders prompts as the policy was trained on them.

    The chat template says where a text begins, so that the tokenizer adds nothing to it: of itself the harness lets it, which would
    double a BOS token or end a prompt by EOS. Thoughts are no part of an answer where ``enable_thinking`` is true, or null and
    the chat template knows them: Qwen3's thinks unless it is told not to. Elsewhere the harness would strip what answers begin with.
    """
    from lm_eval.models.huggingface import HFLM

    own = tokenizer.chat_template
    tokenizer.chat_template = dated_chat_template(tokenizer) if own else chat_template_of(tokenizer, params.prompt_template)
    thinks = ENDS in tokenizer.chat_template if params.enable_thinking is None else params.enable_thinking
    limits = [limit for limit in (max_positions(model), max_steady_positions(model)) if limit]
    options = {} if params.enable_thinking is None else {"enable_thinking": params.enable_thinking}
    return HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=min(limits, default=None), add_bos_token=False,
        chat_template_args=options, think_end_token=ENDS if thinks else None,
    )  # fmt: skip


def ask(task: HarnessTask, lm: HFLM, limit: int) -> tuple[dict, list[dict]]:
    """Return the results of a task, and a row for each question and filter as the harness logs it; ``limit`` 0 asks all questions.

    Seeds and few-shot examples are those of ``lm_eval`` from the command line, with ``--apply_chat_template``. Answers are never taken
    from the harness's cache, which knows a prompt but not the model that was asked.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
    from lm_eval.evaluator import evaluate
    from lm_eval.utils import handle_non_serializable

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    for part in task.parts.values():
        if part.get_config("num_fewshot") is None:
            part.set_config(key="num_fewshot", value=0)
        part.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    found = evaluate(lm, task_dict=task.built, limit=limit or None, bootstrap_iters=0, apply_chat_template=True, fewshot_as_multiturn=True)
    rows = [{"task": part, **sample} for part, samples in sorted(found["samples"].items()) for sample in samples]
    rows = json.loads(json.dumps(rows, default=handle_non_serializable))
    for row in rows:
        row["cut"] = any(is_cut(lm, task.parts[row["task"]].OUTPUT_TYPE, arguments) for arguments in row["arguments"])
    return {"task": task.name, "limit": limit, "parts": {part: part_results(task, part, found, rows) for part in sorted(task.parts)}}, rows


def part_results(task: HarnessTask, part: str, found: dict, rows: list[dict]) -> dict:
    """Return what the harness found for a task, or a part of one: each figure, and how it is made of the questions' figures."""
    loaded, own = task.parts[part], [row for row in rows if row["task"] == part]
    figures = {}
    for key, value in found["results"][part].items():
        metric, _, name = key.partition(",")
        if name and not metric.endswith("_stderr"):
            figures[key] = {
                "metric": metric,
                "filter": name,
                "value": float(value),
                "aggregation": getattr(loaded.aggregation().get(metric), "__name__", "unknown"),
                "higher_is_better": bool(loaded.higher_is_better().get(metric, True)),
            }
    return {
        "version": str(loaded.VERSION),
        "shots": loaded.get_config("num_fewshot"),
        "questions": len({row["doc_id"] for row in own}),
        "cut_prompts": len({row["doc_id"] for row in own if row["cut"]}),
        "figures": figures,
    }


def is_cut(lm: HFLM, output_type: str, arguments: list) -> bool:
    """Return whether a prompt was too long for the model, so that the harness left out its beginning."""
    from lm_eval.models.utils import normalize_gen_kwargs

    if output_type == "loglikelihood_rolling":  # scored window by window
        return False
    if output_type == "generate_until":
        room = lm.max_length - normalize_gen_kwargs(arguments[1], lm.max_gen_toks)["max_gen_toks"]
        return len(lm.tok_encode(arguments[0])) > room
    return len(lm.tok_encode("".join(arguments))) > lm.max_length + 1  # the last token is only predicted
