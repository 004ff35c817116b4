"""TRL's and transformers' side of the benchmark: each function measures one thing on the pairs."""

from __future__ import annotations

import tempfile
import time

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from workload import EOS, Memory, build_policy, on_gpu, sampling, sampling_policy, speed_of_sampling, useful_tokens


class Clock(TrainerCallback):
    """Seconds of every step but the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_, **__):
        self.begun = time.perf_counter()

    def on_step_end(self, config, state, control, **__):
        if on_gpu():
            torch.cuda.synchronize()
        if state.global_step > 1:
            self.seconds.append(time.perf_counter() - self.begun)


def word_tokenizer():
    """What trainers ask for although their rows come as token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<s>": 1, "</s>": 2, "<unk>": 0}, unk_token="<unk>")))
    tokenizer.pad_token = tokenizer.eos_token = "</s>"
    return tokenizer


def trl_trainer(pairs, args, folder: str):
    """DPOTrainer in its best configuration for given pairs: reference precomputed, examples grouped by length."""

    class GivenTokens(DPOTrainer):
        """The pairs come as token ids; there is nothing to tokenise."""

        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

        def _precompute_ref_logps(self, dataset, *_, **__):
            """Columns of log-probs without the pass that computes them: the update's cost is the same."""
            zeros = [0.0] * len(dataset)
            return dataset.add_column("ref_chosen_logps", zeros).add_column("ref_rejected_logps", zeros)

    config = DPOConfig(
        folder, per_device_train_batch_size=args.rows, gradient_accumulation_steps=args.batch // args.rows, learning_rate=1e-5,
        num_train_epochs=1, precompute_ref_log_probs=True, train_sampling_strategy="group_by_length", length_column_name="length",
        logging_strategy="no", save_strategy="no", report_to=[], use_cpu=not on_gpu(), gradient_checkpointing=False, bf16=on_gpu(),
        max_length=None, disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False, **args.theirs,
    )  # fmt: skip
    columns = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r, "length": len(p) + max(len(c), len(r))} for p, c, r in pairs]
    policy = build_policy()
    if on_gpu():
        policy = get_peft_model(policy, LoraConfig(r=32, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    return GivenTokens(policy, args=config, train_dataset=Dataset.from_list(columns), processing_class=word_tokenizer())


def update_trl(pairs, args) -> dict:
    clock, tokens = Clock(), []
    with tempfile.TemporaryDirectory() as folder, Memory() as memory:
        trainer = trl_trainer(pairs, args, folder)
        weights = sum(w.numel() * w.element_size() for w in trainer.model.parameters()) / 2**20
        collate = trainer.data_collator

        def counting(examples):
            tokens.append(sum(2 * len(e["prompt_ids"]) + len(e["chosen_ids"]) + len(e["rejected_ids"]) for e in examples))
            return collate(examples)

        trainer.data_collator = counting
        trainer.add_callback(clock)
        trainer.train()
    counted = sum(tokens[args.batch // args.rows :])
    return {"tokens_per_second": counted / sum(clock.seconds), "peak_memory_mib": memory.peak - weights}


def reference_trl(pairs, args) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(pairs, args, folder)
        order = sorted(range(len(pairs)), key=lambda index: trainer.train_dataset[index]["length"])
        with Memory() as memory:
            begun = time.perf_counter()
            for start in range(0, len(order), args.rows):
                batch = trainer.data_collator([trainer.train_dataset[index] for index in order[start : start + args.rows]])
                trainer.compute_ref_log_probs(trainer.model, {name: value.to(trainer.model.device) for name, value in batch.items()})
            seconds = time.perf_counter() - begun
    return {"tokens_per_second": useful_tokens(pairs) / seconds, "peak_memory_mib": memory.peak}


def sampling_plain(pairs, args) -> dict:
    """transformers' generate in the order given; the entropy of every step from the logits it returns."""
    policy, asked = sampling_policy(), sampling()
    prompts = [prompt for prompt, _, _ in pairs[: args.prompts]]

    def sample_shard(shard: list[list[int]]) -> int:
        width = max(map(len, shard))
        ids = torch.tensor([[EOS] * (width - len(p)) + p for p in shard], device=policy.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in shard], device=policy.device)
        output = policy.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=asked["max_new_tokens"],
            num_return_sequences=asked["samples"], eos_token_id=EOS, pad_token_id=EOS, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        for logits in output.logits:
            log_p = logits.float().log_softmax(-1)
            -(log_p.exp() * log_p).sum(-1)
        ended = output.sequences[:, width:] == EOS
        return int((~ended).sum() + ended.any(-1).sum())

    size = asked["responses_at_once"] // asked["samples"]
    return speed_of_sampling(lambda: sum(sample_shard(prompts[start : start + size]) for start in range(0, len(prompts), size)))
