"""Splits of small data files: disjoint, unmoved by more rows, and counted."""

import json
import random

import pytest
from conftest import configured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prepare_data
from anchora.run.errors import UserError
from anchora.run.files import read_json, read_jsonl
from anchora.verifiers.function_worker import function_worker


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a small file for every input; the files of regret and calibration prompts are empty."""
    monkeypatch.chdir(tmp_path)
    configured(tmp_path)
    (tmp_path / "data").mkdir()
    write("sft.json", sft_rows(300))
    write("preferences.json", preference_rows(300))
    write("gsm8k.jsonl", [{"question": f"Problem {i}?", "answer": f"#### {i}"} for i in range(10)])
    for name in ("regret_prompts.jsonl", "calibration.jsonl", "mt_bench.jsonl", "alpaca_eval.json"):
        (tmp_path / "data" / name).write_text("")
    return tmp_path


def sft_rows(count):
    return [{"prompt": f"Question {i}", "completion": f"{i}"} for i in range(count)]


def preference_rows(count):
    return [{"prompt": f"Choice {i}", "chosen": "good", "rejected": "bad"} for i in range(count)]


def write(name, rows):
    with open(f"data/{name}", "w") as file:
        file.write(json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows))


def splits() -> dict[str, set[str]]:
    prepare_data.main()
    names = read_json("metrics/data.json")["data"]["splits"]
    return {name: {row["id"] for row in read_jsonl(f"data/prepared/{name}.jsonl")} for name in names}


def left_out() -> dict[str, int]:
    return read_json("metrics/data.json")["data"]["left_out"]


def test_a_question_is_known_by_other_line_ends_spaces_and_accents(project):
    """Copies of held-out questions as other programs save them, one in the midst of a conversation: none is trained on."""
    held = ["Ren\u00e9 has 3\napples.\nHow many?", "Which  one?", "Second turn?"]
    copies = ["Rene\u0301 has 3\r\napples.\r\nHow many?\r\n", "Which one?"]
    write("gsm8k.jsonl", [{"question": text, "answer": "#### 3"} for text in held])
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": held[2]}]
    rows = [{"prompt": text, "completion": "3"} for text in copies]
    rows += [{"messages": [*talk, {"role": "assistant", "content": "3"}]}]
    rows += [{"messages": [{"role": "user", "content": held[2]}, talk[1], talk[0], talk[1]]}]
    write("sft.json", [*sft_rows(100), *rows])
    prepare_data.main()
    assert left_out()["sft_held_out"] == 4


def test_no_conversation_asks_what_calibration_took_from_the_sft_prompts(project):
    """Every question stands alone and as the first turn of a conversation, of which another hash decides where it goes."""
    talks = []
    for i in range(300):
        turns = (("user", f"Question {i}"), ("assistant", "a"), ("user", f"More {i}"), ("assistant", "b"))
        talks.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    write("sft.json", sft_rows(300) + talks)
    prepare_data.main()
    taken = {row["prompt"][0]["content"] for row in read_jsonl("data/prepared/calibration.jsonl") if len(row["prompt"]) == 1}
    trained = {message["content"] for row in read_jsonl("data/prepared/sft.jsonl") for message in row["prompt"]}
    assert len(taken) > 5 and not taken & trained
    assert left_out()["sft_in_calibration"] > 5


@pytest.mark.parametrize("answer", ["#### A12", "#### none", "#### 7:30", "#### 5 or 6", "12", "#### 1. Peel\n3 onions"])
def test_a_reference_whose_answer_cannot_be_read_is_refused(project, answer):
    """Every response to it would count as wrong."""
    write("gsm8k.jsonl", [{"question": "How many?", "answer": answer}])
    with pytest.raises(UserError, match=r"gsm8k.jsonl:1: field 'answer': expected exactly one number after ####"):
        prepare_data.main()


def test_no_evaluation_problem_is_an_example_in_the_prompts(project):
    """The first two calibration problems are in the evaluation: the examples are the two after them, and one is left."""
    problems = [{"question": f"Problem {i}?", "answer": f"#### {i}"} for i in (0, 1, 20, 21, 22)]
    write("calibration.jsonl", problems)
    configured(project, gsm8k_shots=2)
    prepare_data.main()
    (row,) = read_jsonl("data/prepared/calibration.jsonl")
    assert [message["content"] for message in row["prompt"]] == ["Problem 20?", "#### 20", "Problem 21?", "#### 21", "Problem 22?"]
    assert left_out()["calibration_in_evaluation"] == 2


def test_no_problem_is_its_own_example(project):
    """A problem that stands twice is one: it became an example and stayed a prompt, its answer before it."""
    write("calibration.jsonl", [{"question": f"Problem {i}?", "answer": f"#### {i}"} for i in (20, 20, 21, 22)])
    configured(project, gsm8k_shots=1)
    prepare_data.main()
    asked = [[message["content"] for message in row["prompt"]] for row in read_jsonl("data/prepared/calibration.jsonl")]
    assert sorted(asked) == [["Problem 20?", "#### 20", f"Problem {i}?"] for i in (21, 22)]
    assert left_out()["calibration_duplicates"] == 1


def test_without_files_for_them_shares_are_kept_for_regret_and_calibration(project):
    found = splits()
    assert all(found.values())
    assert sum(len(ids) for ids in found.values()) == len(set().union(*found.values())) == 610
    assert 80 < len(found["prompts"]) < 150
    known = {row["from"] for row in read_jsonl("data/regret_buffer/sft.jsonl")}
    assert known == {"reference", "preferred"}


def test_more_rows_move_no_prompt(project):
    before = splits()
    write("sft.json", sft_rows(500)[::-1])
    write("preferences.json", preference_rows(400)[::-1])
    after = splits()
    for name, ids in before.items():
        assert ids <= after[name], name


def test_a_prompt_of_both_files_is_in_one_split(project):
    write("preferences.json", [{**row, "prompt": f"Question {i}"} for i, row in enumerate(preference_rows(300))])
    found = splits()
    assert sum(len(ids) for ids in found.values()) == len(set().union(*found.values()))
    assert left_out()["sft_prompts_given_to_preferences"] > 0 < left_out()["preference_prompts_given_to_sft"]


def test_what_is_left_out_is_counted(project):
    write("sft.json", [*sft_rows(300), *sft_rows(2), {"prompt": " Problem 3?", "completion": "3"}])
    same = {"prompt": "same", "chosen": "x", "rejected": "x "}
    half = {"prompt": "half", "response_a": "x", "response_b": "y", "label": 0.5}
    write("preferences.json", [*preference_rows(300), same, same])
    splits()
    assert (left_out()["sft_duplicates"], left_out()["sft_held_out"]) == (2, 1)
    assert (left_out()["preference_duplicates"], left_out()["preferences_without_preference"]) == (0, 2)
    labelled = [{"prompt": f"Choice {i}", "response_a": "x", "response_b": "y", "label": i % 2} for i in range(300)]
    write("preferences.json", [*labelled, half])
    splits()
    assert left_out()["preferences_without_preference"] == 1


def test_rows_that_differ_in_thoughts_or_votes_are_no_repeats(project):
    """Of one pair half a vote goes, of equal votes one stays, and one on either side says that people differ."""
    traces = [{"prompt": "Traced", "completion": f"<think>{thought}</think>4"} for thought in ("2 and 2", "3 and 1", "3 and 1")]
    write("sft.json", [*sft_rows(300), *traces])
    votes = [{"prompt": "Voted", "response_a": "x", "response_b": "y", "label": label} for label in (0.5, 1, 1, 0)]
    write("preferences.json", [*preference_rows(300), *votes])
    splits()
    assert left_out()["sft_duplicates"] == 1
    assert (left_out()["preferences_without_preference"], left_out()["preference_duplicates"]) == (1, 1)


def test_fewer_rows_than_a_split_needs(project):
    write("preferences.json", preference_rows(1))
    with pytest.raises(UserError, match="would be empty"):
        prepare_data.main()


def test_prompts_of_their_own_are_used_whole_and_held_out(project):
    write("regret_prompts.jsonl", [{"prompt": f"Question {i}"} for i in range(20)])
    found = splits()
    assert len(found["prompts"]) == 20
    assert left_out()["sft_held_out"] == 20
    assert read_jsonl("data/regret_buffer/sft.jsonl") == []


def test_fewer_prompts_are_some_of_all(project):
    write("regret_prompts.jsonl", [{"prompt": f"Question {i}"} for i in range(20)])
    everything = splits()
    configured(project, prompt_limit=7)
    found = splits()
    assert len(found["prompts"]) == 7 and found["prompts"] < everything["prompts"]
    assert len(found["calibration"]) == 7 and found["calibration"] < everything["calibration"]
    assert found["sft"] == everything["sft"]


def test_a_system_message_does_not_smuggle_a_held_out_question_into_training(project):
    system = {"system": "You are a helpful assistant."}
    write("sft.json", [*sft_rows(300), {"prompt": "Problem 3?", "completion": "3", **system}])
    write("preferences.json", [*preference_rows(300), {"prompt": "Problem 4?", "chosen": "4", "rejected": "5", **system}])
    prepare_data.main()
    assert left_out()["sft_held_out"] == 1 and left_out()["preferences_held_out"] == 1


@pytest.mark.parametrize("folder", ["data", "metrics"])
def test_a_folder_of_outs_linked_to_outside_is_refused_before_anything_is_read(project, tmp_path_factory, folder):
    """DVC refuses it as well, but only when the stage has run. Links within the project, and of what is read, are no reason."""
    outside = tmp_path_factory.mktemp("outside")
    (project / "data").rename(project / "real")
    (project / "data").symlink_to(project / "real")
    prepare_data.main()
    (project / "data").unlink()
    (project / "real").rename(project / "data")
    (project / "data" / "sft.json").rename(outside / "sft.json")
    (project / "data" / "sft.json").symlink_to(outside / "sft.json")
    prepare_data.main()
    (project / folder).rename(outside / folder)
    (project / folder).symlink_to(outside / folder)
    with pytest.raises(UserError, match=f"{folder} is a symbolic link to outside the project"):
        prepare_data.main()


def test_no_conversation_goes_on_from_one_that_is_held_out(project):
    """A regret prompt may be a conversation: a longer one that begins with it asks it as well."""
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And then?"}]
    longer = [{"role": "system", "content": "Be brief."}, *talk, talk[1], {"role": "user", "content": "Last?"}]
    other = [talk[0], {"role": "assistant", "content": "What?"}, *longer[3:]]
    write("regret_prompts.jsonl", [{"prompt": talk}])
    write("sft.json", [*sft_rows(100), *({"prompt": prompt, "completion": "3"} for prompt in (longer, other))])
    write("preferences.json", [*preference_rows(100), {"prompt": longer, "chosen": "3", "rejected": "4"}])
    prepare_data.main()
    assert (left_out()["sft_held_out"], left_out()["preferences_held_out"]) == (1, 1)


def turns(rows: list[dict]) -> set[str]:
    """What the user asks in any turn of any row."""
    return {" ".join(message["content"].split()) for row in rows for message in row["prompt"] if message["role"] == "user"}


def asked(rows: list[dict], up_to_a_turn: bool, examples: int = 0) -> set[str]:
    """The whole prompts of rows behind so many examples, without system texts; on request cut behind each of the user's turns, too."""
    prompts = [[(m["role"], m["content"]) for m in row["prompt"][2 * examples :] if m["role"] != "system"] for row in rows]
    ends = [range(1, len(prompt) + 1, 2) if up_to_a_turn else [len(prompt)] for prompt in prompts]
    return {json.dumps(prompt[:end]) for prompt, of_prompt in zip(prompts, ends, strict=True) for end in of_prompt}


def questions_alone(rows: list[dict], examples: int) -> set[str]:
    """What rows of a single question ask, behind so many examples."""
    prompts = [[message for message in row["prompt"] if message["role"] != "system"][2 * examples :] for row in rows]
    return turns([{"prompt": prompt} for prompt in prompts if len(prompt) == 1])


@given(st.integers(0, 10_000), st.booleans(), st.booleans(), st.sampled_from([0, 2]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_question_kept_for_measuring_is_asked_in_training(project, seed, own_regret, own_calibration, shots):
    """Mixtures of questions that stand alone, behind a system text, and as a turn of a conversation, in all files."""
    rng = random.Random(seed)

    def talk(question: str) -> list[dict]:
        turns = [{"role": "user", "content": question}]
        while len(turns) < 5 and rng.random() < 0.4:
            turns += [{"role": "assistant", "content": "Well."}, {"role": "user", "content": rng.choice(questions)}]
        return ([{"role": "system", "content": "Be brief."}] if rng.random() < 0.3 else []) + turns

    questions = [f"Question {number}?" for number in range(120)]
    answer = {"role": "assistant", "content": "12"}
    write("sft.json", [{"messages": [*talk(rng.choice(questions)), answer]} for _ in range(250)])
    write("preferences.json", [{"prompt": talk(rng.choice(questions)), "chosen": "12", "rejected": "13"} for _ in range(250)])
    write("gsm8k.jsonl", [{"question": text, "answer": "#### 3"} for text in rng.sample(questions, 6)])
    write("regret_prompts.jsonl", [{"prompt": talk(text)} for text in rng.sample(questions, 12)] if own_regret else [])
    write("calibration.jsonl", [{"question": text, "answer": "#### 3"} for text in rng.sample(questions, 15)] if own_calibration else [])
    shots = shots if own_calibration else 0
    configured(project, gsm8k_shots=shots)
    prepare_data.main()
    evaluation, calibration, prompts, sft, preferences, judge = (
        read_jsonl(f"data/prepared/{name}.jsonl") for name in ("evaluation", "calibration", "prompts", "sft", "preferences", "judge")
    )
    examples = turns([{"prompt": evaluation[0]["prompt"][: 2 * shots]}])
    kept = examples | questions_alone(evaluation, shots) | questions_alone(calibration, shots)
    assert len(kept) >= 6 and not turns(sft + preferences + judge) & (kept | questions_alone(prompts, 0))
    measured = asked(evaluation + calibration, False, shots) | asked(prompts, False)
    assert not asked(sft + preferences + judge, True) & measured and not asked(preferences, True) & asked(judge, False)
    assert not turns(prompts) & kept and not turns(preferences) & questions_alone(judge, 0)
    assert not questions_alone(calibration, shots) & questions_alone(evaluation, shots)


NO_MODELS = {"verifiers": [], "verifier_functions": ["verifiers/own.py:score"]}


@pytest.fixture
def checked(project):
    """A project whose only verifier is a function that requires an answer, without a row of preferences."""
    (project / "verifiers").mkdir()
    (project / "verifiers" / "own.py").write_text("def score(completions, answer, **columns): ...\n")
    write("preferences.json", [])
    write("regret_prompts.jsonl", [{"question": f"Add {i} and 2.", "answer": i + 2, "level": {"digits": [1]}} for i in range(20)])
    configured(project, **NO_MODELS)
    function_worker.cache_clear()  # the process of another test runs in another folder
    yield project
    function_worker().stop()


def test_columns_stay_with_the_prompts_that_functions_are_asked_about(checked):
    splits()
    for row in read_jsonl("data/prepared/prompts.jsonl"):
        assert row["columns"]["answer"] == int(row["prompt"][0]["content"].split()[1]) + 2 and row["columns"]["level"] == {"digits": [1]}
    evaluation = read_jsonl("data/prepared/evaluation.jsonl")
    assert all(row["columns"]["answer"] == row["reference"] for row in evaluation)
    assert not any("columns" in row for name in ("sft", "preferences", "judge") for row in read_jsonl(f"data/prepared/{name}.jsonl"))


def test_prompts_that_are_kept_from_sft_have_the_columns_of_its_rows(checked):
    write("sft.json", [{**row, "answer": row["completion"]} for row in sft_rows(300)])
    write("regret_prompts.jsonl", [])
    splits()
    for name in ("prompts", "calibration"):
        rows = read_jsonl(f"data/prepared/{name}.jsonl")
        assert rows and all(row["columns"]["answer"] == row["prompt"][0]["content"].split()[1] for row in rows)


def test_without_preferences_their_splits_are_empty(checked):
    found = splits()
    assert found["preferences"] == found["judge"] == set() and len(found["prompts"]) == 20


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"verifiers": [0, 1]}, r"data/preferences.json: no rows, and verifiers \[0, 1\] are trained on them; set verifiers: \[\]"),
        ({"verifier_functions": ["verifiers/none.py:score"]}, "verifiers/none.py: no such file"),
    ],
)
def test_without_preferences_nothing_can_be_trained(checked, changes, says):
    configured(checked, **changes)
    with pytest.raises(UserError, match=says):
        prepare_data.main()


def test_without_preferences_there_is_no_judge(checked):
    write("alpaca_eval.json", [{"instruction": "Write a poem."}])
    with pytest.raises(UserError, match="data/preferences.json: no rows to train a judge on, and alpaca_eval would be judged; make"):
        prepare_data.main()
    configured(checked, judge_model="some-model")
    assert len(splits()["evaluation"]) == 11


def test_a_function_whose_column_is_nowhere_is_refused(checked):
    write("regret_prompts.jsonl", [{"question": f"Add {i} and 2.", "answr": i + 2} for i in range(20)])
    with pytest.raises(
        UserError, match="verifiers/own.py:score: it requires the column 'answer', which no regret prompt has; they have answr"
    ):
        prepare_data.main()


def test_tools_thoughts_and_several_turns_come_through_every_split(project):
    """Tools stand in the prompt wherever it goes; what no policy could have written as one text is no known response."""
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}
    rows = [
        {"messages": [{"role": "user", "content": f"Question {i}"}, call, {"role": "tool", "content": "4"},
                      {"role": "assistant", "content": f"<think>{i}.</think>It is {i}."}], "tools": [{"name": "weather"}]}
        for i in range(200)
    ] + [{"messages": [{"role": "user", "content": f"Call {i}"}, call], "tools": [{"name": "weather"}]} for i in range(200)]  # fmt: skip
    write("sft.json", rows)
    write("preferences.json", [
        {side: [{"role": role, "content": text} for role, text in (
            ("user", f"Choice {i}"), ("assistant", word), ("user", "Sure?"), ("assistant", "Yes."))]
         for side, word in (("chosen", "good"), ("rejected", "bad"))} for i in range(300)
    ])  # fmt: skip
    prepare_data.main()
    tools = [{"type": "function", "function": {"name": "weather"}}]
    of_split = {name: read_jsonl(f"data/prepared/{name}.jsonl") for name in ("sft", "prompts", "calibration", "preferences", "judge")}
    for name in ("sft", "prompts", "calibration"):
        asked = [row["prompt"] for row in of_split[name] if not row["prompt"][0]["content"].startswith("Choice")]
        assert asked and all(prompt[0]["tools"] == tools for prompt in asked)
    assert all(row["reference"].startswith("It is ") for row in of_split["calibration"])
    assert {row.get("reasoning_content", "").strip("0123456789") for row in of_split["sft"]} == {"", "."}
    assert {len(row["response_a"]) for row in of_split["preferences"] + of_split["judge"]} == {3}
    assert read_jsonl("data/regret_buffer/sft.jsonl") == []
    assert left_out()["sft_duplicates"] == left_out()["preferences_without_preference"] == 0
