"""Values laid over the text of params.yaml, and passed as options of `dvc exp run`: what is written is what is read."""

import shlex

import pytest
import ugrr_pipeline
import yaml
from conftest import ROOT, params_file
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml

from anchora.run.errors import UserError
from anchora.run.files import parse_yaml, read_yaml

PRESETS = sorted((ROOT / "presets").glob("*.yaml"))


TEXTS = [  # that some YAML, Hydra or OmegaConf takes for something else
    "No", "yes", "on", "Off", "n", "12:30", "1_000", "0x1F", "010", "0o17", "0b1", "~", "null", "true", "nan", "inf", ".inf", "1e3",
    "3e-06", "2026-12-01", "", " ", " both ", "# no comment", "a # b", "a: b", "- a", "[a", "{a: b}", "it's", '"', "\n", "a\n\n b\n\n",
    "a\tb", "a\\", "\\", '\\"', '\\\\"', "$", "12個 é 😀", "%", "@a", "&a", "*a", "!a", "?", "=", "a=b", "a, b", "a" * 300,
]  # fmt: skip
TEMPLATES = ["${x}", "\\${x}", "\\\\${x}", "${oc.env:HOME}", "${seed}", "${"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_of_an_overlay_is_read_back_as_it_is(here, text):
    """By YAML 1.1, by us, by DVC, and again after DVC has written all lists anew for -S of another key."""
    expected = {"stop_strings": [text, "12:30"], "judge_model": text, "calibration_path": {"hub": "a/b", "revision": text}}
    ugrr_pipeline.apply(expected)
    for read in (params_file, lambda: parse_yaml((here / "params.yaml").read_text()), lambda: load_yaml(here / "params.yaml")):
        assert {key: read()[key] for key in expected} == expected
    apply_overrides(here / "params.yaml", ["seed=7"])
    assert {key: read_yaml("params.yaml")[key] for key in expected} == expected and read_yaml("params.yaml")["seed"] == 7


def test_values_are_those_that_dvc_reads(here):
    """Plain values on which YAML 1.1 and 1.2 differ, and others: our fast loader and DVC's own agree."""
    plain = "No yes on Off y 12:30 1_000 0x1F 010 08 0o17 0b1 ~ null 1e3 3e-06 .5 1. +1 .inf .nan nan true 2026-12-01 1:20:30.15 ''".split()
    text = "".join(f"key{place}: {value}\n" for place, value in enumerate(plain))
    (here / "plain.yaml").write_text(text)
    assert repr(parse_yaml(text)) == repr(load_yaml(here / "plain.yaml"))


def test_what_cannot_be_written_leaves_params_yaml_as_it_was(here):
    before = (here / "params.yaml").read_bytes()
    for changes, word in (({"judge_model": "\ud800"}, "judge_model"), ({"seed": 3, "stop_strings": ["a", object()]}, "stop_strings")):
        with pytest.raises(UserError, match=rf"^{word}: .* cannot be written to params.yaml"):
            ugrr_pipeline.apply(changes)
    assert (here / "params.yaml").read_bytes() == before
    (here / "params.yaml").write_text("seed: &s 1\nlimit: *s\n")
    with pytest.raises(UserError, match="set seed there by hand"):
        ugrr_pipeline.apply({"seed": 2})


def test_comments_and_order_stay(here):
    before = (here / "params.yaml").read_text()
    ugrr_pipeline.apply({"kl_beta_max": 0.75, "rounds": [{"k": 0, "after": "sft"}]})
    after = (here / "params.yaml").read_text()
    comments = [line for line in before.splitlines() if line.startswith("#")]
    assert [line for line in after.splitlines() if line.startswith("#")] == comments
    assert list(params_file()) == list(yaml.safe_load(before))
    assert params_file()["kl_beta_max"] == 0.75
    assert params_file()["rounds"] == [{"k": 0, "after": "sft"}]


OWN_PARAMS = """\
# head
seed: 1  # inline
stop_strings:   # behind the key
  # inside
  - a
  - "b # c"  # behind an item

# about limit
limit: 2

# about the pointer
sft_data_path: {hub: a}
# about the template
prompt_template: |
  {prompt}
  # text
# about nothing
judge_model:
# about the end
device: >-
  auto

# foot
"""


def test_comments_outlive_every_overlay(here):
    """A list or a pointer laid over twice, in a file of one's own: block lists, text in blocks, values that are missing."""
    path = here / "params.yaml"
    path.write_text(OWN_PARAMS)
    comments = {word for word in OWN_PARAMS.splitlines() if word.startswith("#")}
    expected = params_file()
    for changes in (
        {"stop_strings": ["No", "12:30"]}, {"stop_strings": ["c"]}, {"sft_data_path": {"hub": "a", "revision": "1_000"}},
        {"sft_data_path": {"hub": "b"}}, {"stop_strings": []}, {"sft_data_path": "x", "seed": 4}, {"prompt_template": "{prompt}\n"},
        {"judge_model": "m", "device": "cpu", "limit": 3}, {"judge_model": None, "kl_budget": 3e-06},
    ):  # fmt: skip
        ugrr_pipeline.apply(changes)
        expected |= changes
        assert params_file() == expected
        assert comments <= set(path.read_text().splitlines()) and "  # inline\n" in path.read_text()
    assert all(word in path.read_text() for word in ("# behind the key", "# inside", "# behind an item"))


@pytest.mark.parametrize("changes", [["seed=1", "seed=2"], ["verifiers=[3]", "rounds=[{k: 0, after: sft}]", "stop_strings=[a]", "limit=9"]])
def test_comments_outlive_dvcs_own_writing(here, changes):
    """`dvc exp run -S` writes all lists anew each time, without the comments that stand behind them."""
    before = (here / "params.yaml").read_text()
    for change in changes:
        apply_overrides(here / "params.yaml", [change])
    after = (here / "params.yaml").read_text()
    assert after != before
    assert [line for line in after.splitlines() if line.startswith("#")] == [line for line in before.splitlines() if line.startswith("#")]


def set_by_dvc(words: list[str]) -> dict:
    """What `dvc exp run` makes of params.yaml by its options ``words``, by its own function."""
    apply_overrides("params.yaml", words[1::2])
    return read_yaml("params.yaml")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_dvc_reads_the_printed_options_as_the_presets_values(here, path):
    """Through the shell's quotes and DVC's own reader, written over params.yaml as `dvc exp run` writes them."""
    changes = {**ugrr_pipeline.read_overlay(path), "limit": None, "use_bf16": True}  # null and true
    written = set_by_dvc(shlex.split(ugrr_pipeline.options(params_file(), changes)))
    assert {key: written[key] for key in changes} == changes


def test_printed_options_hold_every_text_and_number(here):
    changes = {"stop_strings": [*TEXTS, None, True, 1e-6, 1e22, float("inf"), -3, [[]]], "sft_data_path": {"hub": "a/b", "revision": "1e3"}}
    changes["stop_strings"] += TEMPLATES
    changes |= {f"text{place}": text for place, text in enumerate(TEXTS)}  # keys that params.yaml lacks
    written = set_by_dvc(shlex.split(ugrr_pipeline.options(params_file(), changes)))
    assert {key: written[key] for key in changes} == changes


@pytest.mark.parametrize("text", ["\x85", "\r", "\x00", "\ud800", "???"])
def test_printed_options_name_the_key_that_cannot_be_passed(here, text):
    """DVC writes next line as a space; the terminal takes no control characters; ??? is OmegaConf's missing value."""
    for value in (text, [text], {"hub": text}):
        with pytest.raises(UserError, match=r"^judge_model: .* does not outlive `dvc exp run -S`"):
            ugrr_pipeline.options(params_file(), {"seed": 3, "judge_model": value})


@pytest.mark.parametrize("text", [text for text in TEMPLATES if text != "${"])
def test_printed_options_name_what_dvc_would_fill_in_or_keep(here, text):
    """-S of any key fills in what stands as ${...} at another; and it lays a mapping over the old one, whose revision would stay."""
    with pytest.raises(UserError, match="^prompt_template: .* does not outlive"):
        ugrr_pipeline.options(params_file() | {"prompt_template": text}, {"seed": 3})
    assert ugrr_pipeline.options(params_file(), {"prompt_template": text})
    with pytest.raises(UserError, match="^sft_data_path: .* does not outlive"):
        ugrr_pipeline.options({"sft_data_path": {"hub": "a", "revision": "b"}}, {"sft_data_path": {"hub": "c"}})
