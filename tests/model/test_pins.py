"""Pins: a model folder is what it was when it was pinned, or an error."""

import pytest

import pin_models
from anchora.model.pins import folder_hash, from_folder, from_pin
from anchora.run.errors import UserError


def test_a_verifier_that_was_changed_since_it_was_pinned_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    pin = {"path": str(tmp_path), "sha256": folder_hash(tmp_path)}
    assert from_pin(pin) == from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"num_labels": 1}')
    with pytest.raises(UserError, match="have changed or gone since they were pinned"):
        from_pin(pin)


@pytest.mark.parametrize("config", ["{", "[]", "null", ""])
def test_a_config_that_is_no_json_object_is_told_with_its_key(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="^base_model_name: .*: its config.json is no JSON object$"):
        pin_models.pin(str(tmp_path), "base_model_name")
