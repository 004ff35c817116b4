"""An exported policy behind a chat server: it renders what the policy was trained on."""

import openai
import pytest
from conftest import params_as
from model_server import serving

import export
from anchora.model.loading import save_policy
from anchora.model.prompts import encode_prompt
from anchora.sampling.responses import generate
from parameters.export import ExportParams

pytestmark = pytest.mark.long
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
TALK = [
    {"role": "user", "content": "Mia has 3 eggs and finds 4 more. How many eggs does Mia have?"},
    {"role": "assistant", "content": "7"},
    {"role": "user", "content": "Tom has 6 pens and loses 2. How many pens does Tom have?"},
]


def test_a_served_policy_answers_as_it_was_trained_without_a_template_of_its_own(policy, tmp_path):
    model, tokenizer = policy
    tokenizer.chat_template, own = None, tokenizer.chat_template
    try:
        params = params_as(ExportParams, prompt_template='Q: "{prompt}"\nA:')
        ids = [encode_prompt(tokenizer, talk, params.prompt_template) for talk in (TALK[:1], TALK)]
        expected = [rows[0].text for rows in generate(model, tokenizer, ids, max_new_tokens=24, responses_at_once=2, seed=0)]
        save_policy(tmp_path / "policy", model, tokenizer)
        export.add_chat_template(tmp_path / "policy", tokenizer, [TALK[:1]], params)
    finally:
        tokenizer.chat_template = own
    assert (tmp_path / "policy" / "chat_template.jinja").is_file()
    with serving(tmp_path / "policy", tmp_path / "log") as address:
        client = openai.OpenAI(base_url=address, api_key="none")
        for messages, text in zip((TALK[:1], TALK), expected, strict=True):
            reply = client.chat.completions.create(model=str(tmp_path / "policy"), messages=messages, max_tokens=24)
            assert reply.choices[0].message.content.strip() == text.strip()
