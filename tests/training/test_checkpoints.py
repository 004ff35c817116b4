"""Checkpoints that were cut as they were written: the last whole one counts, and is kept."""

import torch

from anchora.training.checkpoints import Checkpoints


def test_a_checkpoint_that_was_cut_is_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, {"weight": torch.full((1000,), float(step))}, {"step": step})
    assert [checkpoints.step(folder) for folder in checkpoints.folders()] == [2, 3]
    tensors, state = checkpoints.load()
    assert tensors["weight"][0] == 3 and state == {"step": 3}
    file = tmp_path / "checkpoint-3" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    tensors, state = checkpoints.load()
    assert tensors["weight"][0] == 2 and state == {"step": 2}
    (tmp_path / "checkpoint-2" / "whole").unlink()
    assert checkpoints.load() is None


def test_a_cut_checkpoint_of_a_later_step_pushes_no_whole_one_out(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(40, {"weight": torch.zeros(3)}, {"step": 40})
    for step in (47, 50):  # written in place by a trainer that was killed
        (tmp_path / f"checkpoint-{step}").mkdir()
    checkpoints.save(43, {"weight": torch.zeros(3)}, {"step": 43})
    assert [checkpoints.step(folder) for folder in checkpoints.folders()] == [40, 43]
    assert checkpoints.load()[1] == {"step": 43}


def test_the_best_checkpoint_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        checkpoints.mark_complete(step, best_step=1)
    assert [checkpoints.step(folder) for folder in checkpoints.folders()] == [1, 3, 4]
    (tmp_path / "checkpoint-5").mkdir()
    checkpoints.mark_complete(5, best_step=5)
    assert [checkpoints.step(folder) for folder in checkpoints.folders()] == [4, 5]
