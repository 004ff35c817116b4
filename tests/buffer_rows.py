"""A small regret buffer, made by hand: two cases, an anchor to train on, a held-out one and a known response."""

from __future__ import annotations

from anchora.regret.buffer import Buffer


def small_rows() -> Buffer:
    return Buffer(
        cases=[case("c" * 16, regret=1.5, chosen_right=0.8, priority=0.6), case("d" * 16, regret=0.7, chosen_right=None, priority=0.4)],
        anchors=[anchor("a" * 16, held_out=False), anchor("b" * 16, held_out=True)],
        known=[
            {
                "id": "c" * 16, "kind": "known", "source": "reference", "text": "3 + 4 = 7", "ids": [5, 6, 2], "finished": True,
                "scores": [0.4, 0.9], "entropy_rank": 0.0,
            }
        ],
    )  # fmt: skip


def case(prompt_id: str, regret: float, chosen_right: float | None, priority: float) -> dict:
    return {
        **common(prompt_id, "case"), "held_out": False,
        "parts": {"token_entropy": 0.4, "sample_agreement": 0.25, "mc_dropout": 0.02, "verifier_disagreement": 1.1},
        "regret": regret, "success_rate": 0.7, "source": "sample",
        "chosen": {**response("3 + 4 = 7"), "scores": [1.0, 2.5], "entropy_rank": 0.3},
        "rejected": {**response("3 + 4 = 8"), "scores": [-0.5, 0.0], "entropies": [0.1, 1.2, 0.0], "pieces": ["3 + 4", " = 8", ""]},
        "priority": priority, "chosen_right": chosen_right,
    }  # fmt: skip


def anchor(prompt_id: str, held_out: bool) -> dict:
    return {**common(prompt_id, "anchor"), "held_out": held_out, "response": response("3 + 4 = 7")}


def common(prompt_id: str, kind: str) -> dict:
    prompt = [{"role": "user", "content": "Work out 3 + 4."}]
    return {"id": prompt_id, "kind": kind, "round": 0, "prompt": prompt, "prompt_ids": [1, 3, 4], "uncertainty": 0.75}


def response(text: str) -> dict:
    return {"text": text, "ids": [5, 6, 2], "finished": True, "reference_logps": [-0.5, -1.25, -0.01]}
