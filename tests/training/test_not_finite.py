"""Training whose numbers go wrong stops in one line that names the rows, and writes no model."""

import re

import pytest
from conftest import copy_of, dvc

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("epochs", [pytest.param(0.02, id="early"), pytest.param(0.01, id="in the last update")])
def test_sft_that_goes_wrong_stops_with_step_and_rows_and_writes_no_model(ran, tmp_path, epochs):
    """One update, or the first of two, leaves weights of 1e30 behind a loss that was finite."""
    folder = copy_of(ran, tmp_path, sft_learning_rate=1e30, sft_epochs=epochs)
    output = dvc(folder, "repro", "sft", check=False)
    found = re.search(r"sft: error: the ([\w ]+) of step \d+ \(epoch [\d.]+\) is not finite; .*data/sft.json:\d+", output)
    assert found and "Traceback" not in output
    assert (found[1] == "grad_norm behind the last update") == (epochs == 0.01)
    assert not (folder / "models" / "sft").exists()


def test_a_verifier_that_goes_wrong_stops_with_its_pairs_and_is_not_written(ran, tmp_path):
    """Its one update leaves weights of 1e30."""
    folder = copy_of(ran, tmp_path, reward_learning_rate=1e30)
    output = dvc(folder, "repro", "train_reward@0", check=False)
    assert re.search(r"error: the grad_norm behind the last update of step 1 .* is not finite; .*preferences.json:\d+", output), output
    assert "Traceback" not in output and not (folder / "models" / "verifiers" / "0").exists()
