"""Where a prompt goes, what counts as a repeat, and which response of a pair is A."""

from anchora.data import formats
from anchora.data.splits import flip_side, prompt_id, split_share, unique_rows

USER = [{"role": "user", "content": "2 + 2?"}]


def test_a_prompts_split_depends_on_its_text_alone():
    first = prompt_id([{"role": "user", "content": "2 + 2? "}])
    assert first == prompt_id(USER)
    assert first != prompt_id([*USER, {"role": "assistant", "content": "4"}, *USER])
    shares = [split_share(prompt_id([{"role": "user", "content": str(i)}]), "judge") for i in range(2000)]
    assert 0.27 < sum(share < 0.3 for share in shares) / 2000 < 0.33
    assert split_share(first, "judge") != split_share(first, "regret")


def test_repeats_are_left_out():
    rows = [{"id": "a", "text": "x"}, {"id": "a", "text": "x"}, {"id": "a", "text": "y"}]
    assert unique_rows(rows, "text") == ([rows[0], rows[2]], 1)


def test_chosen_and_rejected_get_their_sides_by_seed():
    rows = [formats.preference_row({"prompt": f"{i}?", "chosen": "4", "rejected": "5"}, "a:1") for i in range(200)]
    rows = [{**row, "id": prompt_id(row["prompt"])} for row in rows]
    flipped = [flip_side(row, 0) for row in rows]
    assert 60 < sum(row["label"] for row in flipped) < 140
    assert all((row["response_a"] == "4") == (row["label"] == 1.0) for row in flipped)
    assert flipped == [flip_side(row, 0) for row in rows]
    assert flipped != [flip_side(row, 1) for row in rows]
