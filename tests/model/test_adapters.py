"""Adapter folders: what they hold, what they stand on, what they compute, and which are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, params_as
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import pin_models
import sft
from anchora.kl.merging import merge_cost, merged_policy
from anchora.model.adapters import base_name, policy_from_folder
from anchora.model.loading import load_causal_lm, load_policy
from anchora.model.logps import response_logps
from anchora.model.lora import add_lora, save_adapter
from anchora.model.params import PolicyParams
from anchora.model.pins import Pretrained, folder_hash, from_folder, model_identity
from anchora.run.errors import UserError
from anchora.sampling.responses import generate
from parameters.sft import SftParams

BASE = ROOT / "models" / "base" / "policy"
PIN = {"path": str(BASE), "sha256": folder_hash(BASE)}
PARAMS = params_as(PolicyParams, lora_rank=4)
PROMPTS = ["Work out 3 + 4.", "Mia has 5 eggs and finds 9 more. How many eggs does Mia have?", "8 - 2 = ?"]


def trained_adapter(path: Path, params: PolicyParams = PARAMS, base: Path = BASE, size: float = 0.05) -> Path:
    """The folder of an adapter over the demo's base whose weights are far from where they began, as ``save_adapter`` writes it."""
    model, tokenizer = load_causal_lm(from_folder(base), params, trainable=True)
    model = add_lora(model, params.lora_rank, 8, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += size * torch.randn(weight.shape, generator=generator)
    save_adapter(path, model, tokenizer, base_name(PIN))
    return path


def project(folder: Path) -> Path:
    """An output folder in which the demo's base is pinned."""
    (folder / "pins").mkdir(parents=True)
    (folder / "pins" / "policy.json").write_text(json.dumps(PIN))
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Pretrained:
    """An adapter over the demo's base, in a project of its own."""
    folder = tmp_path_factory.mktemp("adapter")
    return policy_from_folder(trained_adapter(folder / "policy"), project(folder / "models"))


def rows_of(tokenizer) -> list[tuple[list[int], list[int]]]:
    return [(tokenizer(prompt)["input_ids"], tokenizer(" #### 12")["input_ids"] + [tokenizer.eos_token_id]) for prompt in PROMPTS]


def logps(model, tokenizer) -> torch.Tensor:
    """Log-probs of the rows' responses, one after another."""
    return torch.tensor([value for (row,) in response_logps(model, rows_of(tokenizer), tokenizer.pad_token_id, 4096) for value in row])


def test_a_folder_names_its_base_by_the_pin_and_is_the_same_from_any_hash_seed(adapter):
    config = json.loads((Path(adapter.source) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"sha256:{PIN['sha256']}" and config["revision"] is None
    assert config["target_modules"] == sorted(config["target_modules"]) and len(config["target_modules"]) == 7
    assert str(ROOT) not in (Path(adapter.source) / "adapter_config.json").read_text()
    assert config["inference_mode"] is True
    files = {path.name for path in Path(adapter.source).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= files
    assert not any(name.endswith((".bin", ".pt")) or name == "config.json" for name in files)
    size = sum(path.stat().st_size for path in Path(adapter.source).glob("*.safetensors"))
    assert size < 0.2 * (BASE / "model.safetensors").stat().st_size  # rank 4 of a width of 128


def test_a_hub_base_is_named_with_its_commit():
    assert base_name({"repo": "owner/name", "revision": "a" * 40}) == ("owner/name", "a" * 40)


def test_peft_itself_reads_the_folder(adapter):
    base, tokenizer = AutoModelForCausalLM.from_pretrained(BASE), AutoTokenizer.from_pretrained(adapter.source)
    theirs = PeftModel.from_pretrained(base, adapter.source)
    ours, _ = load_policy(adapter, PARAMS)
    assert (logps(theirs, tokenizer) - logps(ours, tokenizer)).abs().mean() < 1e-5


def test_greedy_responses_of_the_adapter_are_those_of_the_merged_policy(adapter):
    """In float32; the merged one is what sampling takes there."""
    merged, tokenizer = load_policy(adapter, PARAMS)
    beside = load_causal_lm(adapter, PARAMS)[0].get_base_model().eval()
    assert not any("lora" in name for name, _ in merged.named_parameters()) and any("lora" in name for name, _ in beside.named_parameters())
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    settings = {"max_new_tokens": 24, "responses_at_once": 2, "seed": 0}
    both = [generate(model, tokenizer, prompts, **settings) for model in (merged, beside)]
    assert [[response.ids for (response,) in responses] for responses in both][0] == [response.ids for (response,) in both[1]]
    base, _ = load_policy(from_folder(BASE), PARAMS)
    assert [response.ids for (response,) in generate(base, tokenizer, prompts, **settings)] != [response.ids for (response,) in both[0]]


def test_trained_on_and_saved_again_an_adapter_loses_nothing(adapter, tmp_path):
    """Load, save, load: the same bytes, and the same gradients' home: adapters alone are trained."""
    model, tokenizer = load_causal_lm(adapter, PARAMS, trainable=True)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    save_adapter(tmp_path / "again", model, tokenizer, base_name(PIN))
    assert folder_hash(tmp_path / "again") == folder_hash(adapter.source)


def test_a_base_that_is_an_adapter_is_merged_at_rank_0_and_every_weight_is_trained(adapter):
    params = params_as(SftParams, lora_rank=0)
    model, tokenizer = sft.load_base(adapter, params)
    model = sft.with_lora(model, adapter, params)
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert names == {name for name, _ in AutoModelForCausalLM.from_pretrained(BASE).named_parameters()}
    assert (logps(model.eval(), tokenizer) - logps(load_policy(adapter, PARAMS)[0], tokenizer)).abs().mean() < 1e-5


def test_a_base_that_is_an_adapter_is_trained_on_at_its_own_rank_and_alpha_alone(adapter):
    params = params_as(SftParams, lora_rank=4, lora_alpha=8)
    model = sft.with_lora(sft.load_base(adapter, params)[0], adapter, params)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert names and all("lora_" in name for name in names)
    for other in ({"lora_rank": 8}, {"lora_alpha": 16}):
        with pytest.raises(UserError, match="has rank 4 and alpha 8: to train it on, set lora_rank: 4 and lora_alpha: 8"):
            sft.with_lora(model, adapter, params.model_copy(update=other))


def test_a_base_that_moved_is_found_where_it_is_pinned_now(adapter, tmp_path):
    shutil.copytree(BASE, tmp_path / "elsewhere")
    output_dir = project(tmp_path / "models")
    (output_dir / "pins" / "policy.json").write_text(json.dumps(PIN | {"path": str(tmp_path / "elsewhere")}))
    assert policy_from_folder(adapter.source, output_dir).base == Pretrained(str(tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="elsewhere: its files have changed or gone since they were pinned"):
        policy_from_folder(adapter.source, output_dir)


def test_an_adapters_identity_is_its_own_and_its_bases(adapter, tmp_path):
    other = Pretrained(adapter.source, base=Pretrained(str(ROOT / "models" / "base" / "encoder")))
    assert model_identity(adapter) != model_identity(other) and folder_hash(adapter.source) in model_identity(adapter)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_merging_rounds_once_to_the_format_of_the_base(tmp_path, stored):
    """W + s B A by hand for one layer; in float32 it costs nothing, in bfloat16 what half a step of rounding costs."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=stored)
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(BASE).save_pretrained(tmp_path / "base")
    adapter = Pretrained(str(trained_adapter(tmp_path / "policy", size=0.002)), base=from_folder(tmp_path / "base"))
    merged, tokenizer = merged_policy(adapter, PARAMS)
    saved, name = load_file(Path(adapter.source) / "adapter_model.safetensors"), "model.layers.0.mlp.up_proj"
    a, b = (saved[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    by_hand = (model.get_submodule(name).weight.float() + 2.0 * (b @ a)).to(stored)  # alpha 8 over rank 4
    assert merged.get_submodule(name).weight.dtype == stored
    assert (merged.get_submodule(name).weight.float() - by_hand.float()).abs().max() <= (1e-6 if stored == torch.float32 else 0)
    cost = merge_cost(merged.float(), tokenizer, adapter, rows_of(tokenizer), PARAMS, 4096)
    if stored == torch.float32:
        assert cost["logp_difference"] < 1e-5 and abs(cost["kl_sequence"]) < 1e-5
    else:
        assert 1e-4 < cost["logp_difference"] < 0.1 and cost["kl_sequence"] > 0


def test_a_merged_policy_is_a_whole_models_folder(adapter, tmp_path):
    merged, tokenizer = merged_policy(adapter, PARAMS)
    merged.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours, _ = load_policy(adapter, PARAMS)
    assert (logps(plain, tokenizer) - logps(ours, tokenizer)).abs().mean() < 1e-5


def peft_adapter(folder: Path, base: Path = BASE, named: str | None = None, config=None) -> Path:
    """An adapter as PEFT itself saves it, for the demo's base or another model."""
    config = config or LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    change(folder, base_model_name_or_path=str(named or base))
    return folder


def change(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_adapter_of_peft_is_pinned_with_its_base_and_loads(tmp_path):
    pin = pin_models.pin(str(peft_adapter(tmp_path / "adapter")), "base_model_name")
    assert pin["base"] == PIN and pin["sha256"] == folder_hash(tmp_path / "adapter")
    from anchora.model.pins import from_pin

    model, tokenizer = load_policy(from_pin(pin), PARAMS)  # without a tokenizer of its own
    base, _ = load_policy(from_folder(BASE), PARAMS)
    assert (logps(model, tokenizer) - logps(base, tokenizer)).abs().max() < 1e-5  # B is 0


def other_shape(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: torch.zeros(2, 7) if "lora_A" in name else weight for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )


def other_layers(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name.replace("layers.0", "layers.77"): weight for name, weight in weights.items()}, folder / "adapter_model.safetensors")


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


BAD_ADAPTERS = {
    "another shape": (other_shape, ["made for another model than its base", "lora_A of model.layers.0.self_attn.q_proj is 7 wide"]),
    "other layers": (other_layers, ["made for another model than its base", "has no layer model.layers.77"]),
    "DoRA": (lambda folder: change(folder, use_dora=True), ["it is a DoRA", "only plain LoRA is taken"]),
    "whole modules": (lambda folder: change(folder, modules_to_save=["embed_tokens"]), ["modules_to_save", "merge it into its base"]),
    "biases": (lambda folder: change(folder, bias="lora_only"), ["trained biases (bias: lora_only)"]),
    "prompt tuning": (lambda folder: change(folder, peft_type="PROMPT_TUNING"), ["peft_type is PROMPT_TUNING; only LoRA"]),
    "a pickle": (pickled, ["has no adapter_model.safetensors"]),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), ["adapter_config.json is no JSON object"]),
    "no base": (lambda folder: change(folder, base_model_name_or_path=None), ["names no base model", "write the base model's folder"]),
    "a base that is gone": (lambda folder: change(folder, base_model_name_or_path="./gone/base"), ["its base ./gone/base is neither"]),
    "a base on the hub without a commit": (
        lambda folder: change(folder, base_model_name_or_path="owner/name"), ["needs its commit", "set revision in adapter_config.json"],
    ),
    "a base of another project": (
        lambda folder: change(folder, base_model_name_or_path="sha256:" + "1" * 64), ["files hash to 111111111111..., not"],
    ),
    "a base that is an adapter": (
        lambda folder: change(folder, base_model_name_or_path=str(peft_adapter(folder.parent / "under"))), ["is an adapter, too"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ADAPTERS)
def test_an_adapter_that_cannot_serve_gets_one_line_before_training(tmp_path, name):
    spoil, words = BAD_ADAPTERS[name]
    spoil(peft_adapter(tmp_path / "adapter"))
    with pytest.raises(UserError) as error:
        pin_models.pin(str(tmp_path / "adapter"), "base_model_name")
    assert "\n" not in str(error.value) and str(error.value).startswith(f"base_model_name: adapter {tmp_path / 'adapter'}")
    for word in words:
        assert word in str(error.value)


def test_real_prompt_tuning_and_dora_are_refused(tmp_path):
    """As PEFT writes them, not only by our change of a configuration."""
    peft_adapter(tmp_path / "prompts", config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    peft_adapter(tmp_path / "dora", config=LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name in ("prompts", "dora"):
        with pytest.raises(UserError, match="only .*LoRA"):
            pin_models.pin(str(tmp_path / name), "base_model_name")


@pytest.mark.parametrize("spoil", [other_shape, other_layers])
def test_an_adapter_of_another_model_is_refused_on_loading(adapter, tmp_path, spoil):
    shutil.copytree(adapter.source, tmp_path / "other")
    spoil(tmp_path / "other")
    with pytest.raises(UserError, match="made for another model"):
        load_policy(Pretrained(str(tmp_path / "other"), base=adapter.base), PARAMS)


def test_an_adapter_that_is_not_finite_is_refused(adapter, tmp_path):
    shutil.copytree(adapter.source, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "adapter_model.safetensors")
    weights[min(weights)][0, 0] = float("nan")
    save_file(weights, tmp_path / "broken" / "adapter_model.safetensors")
    with pytest.raises(UserError, match="not finite"):
        load_policy(Pretrained(str(tmp_path / "broken"), base=adapter.base), PARAMS)


def test_an_adapter_beside_a_whole_model_is_refused(tmp_path):
    shutil.copytree(BASE, tmp_path / "both")
    peft_adapter(tmp_path / "adapter")
    shutil.copyfile(tmp_path / "adapter" / "adapter_config.json", tmp_path / "both" / "adapter_config.json")
    with pytest.raises(UserError, match="beside a whole model whose weights may hold that adapter already"):
        pin_models.pin(str(tmp_path / "both"), "base_model_name")


def test_quantised_weights_are_refused_as_a_base(tmp_path):
    shutil.copytree(BASE, tmp_path / "quantised", copy_function=shutil.copyfile)
    config = tmp_path / "quantised" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    with pytest.raises(UserError, match=r"base_model_name: .*holds quantised weights \(bitsandbytes\).*load_in_4bit"):
        pin_models.pin(str(tmp_path / "quantised"), "base_model_name")


def test_bfloat16_keeps_the_adapter_beside_the_weights(adapter):
    """A change below half a step of bfloat16 would be rounded away in merging."""
    model, _ = load_policy(adapter, params_as(PolicyParams, lora_rank=4, use_bf16=True))
    adapters = [weight for name, weight in model.named_parameters() if "lora" in name]
    assert adapters and all(weight.dtype == torch.float32 for weight in adapters)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
