"""SFT of adapters against TRL's own: its SFTTrainer with peft_config, on the same rows."""

import pytest
from adapter_policies import BASE, after_sft, sft_rows
from conftest import params_as
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

import sft
from anchora.model.lora import add_lora
from anchora.model.seeds import derived_seed
from anchora.training.trainer import LengthGroupedSampler
from parameters.sft import SftParams


@pytest.mark.parametrize("checkpointed", [False, True])
def test_losses_are_those_of_trl_with_peft(tmp_path, monkeypatch, checkpointed):
    """The same first weights, those of our seed, the same rows in the same order: every loss, to 1e-5."""
    losses = []
    real = sft.train

    def train(trainer, *args):
        result = real(trainer, *args)
        losses.extend(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        return result

    monkeypatch.setattr(sft, "train", train)
    params = params_as(
        SftParams, lora_rank=4, lora_alpha=8, batch_size=4, grad_accum_steps=1, sft_epochs=2, sft_learning_rate=0.005,
        gradient_checkpointing=checkpointed,
    )  # fmt: skip
    _, tokenizer, _ = after_sft(tmp_path, monkeypatch, lora_rank=4, lora_alpha=8, gradient_checkpointing=checkpointed)
    rows, _ = sft.encode_rows(tokenizer, sft_rows(), params)
    order = LengthGroupedSampler([len(row["input_ids"]) for row in rows], 4, derived_seed(params.seed, "sft"))

    class SameOrder(SFTTrainer):
        def _get_train_sampler(self, train_dataset=None):
            return order

    base = AutoModelForCausalLM.from_pretrained(BASE)
    base.get_input_embeddings().padding_idx = None
    config = SFTConfig(
        str(tmp_path / "theirs"), num_train_epochs=2, learning_rate=0.005, per_device_train_batch_size=4, lr_scheduler_type="cosine",
        gradient_checkpointing=False, bf16=False, use_cpu=True, logging_steps=1, save_strategy="no", report_to=[], max_length=512,
    )  # fmt: skip
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    examples = Dataset.from_list([{name: row[name] for name in ("input_ids", "labels")} for row in rows])
    trainer = SameOrder(model=base, args=config, train_dataset=examples, processing_class=tokenizer, peft_config=lora)
    first = add_lora(AutoModelForCausalLM.from_pretrained(BASE), 4, 8, derived_seed(params.seed, "sft adapters")).state_dict()
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    trainer.model.load_state_dict({name: first[name] for name in trained}, strict=False)
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 6 and losses == pytest.approx(theirs, abs=1e-5)
    assert losses[-1] < losses[0] - 0.05
