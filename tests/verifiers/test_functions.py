"""Scoring functions in their own process: TRL's run unchanged, and whatever goes wrong in one is a line that says where."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import environment, running, wait_for

from anchora.run.errors import UserError
from anchora.verifiers import function_worker, functions
from anchora.verifiers.function_worker import check_functions
from anchora.verifiers.functions import CALL_SIZE, ScoringFunction


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project of nothing but scoring functions; its process is ended with the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verifiers").mkdir()
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """Do as a new stage does: start a process of its own, and look at the files anew."""
    function_worker.function_worker().stop()
    function_worker.function_worker.cache_clear()
    functions.code_hash.cache_clear()


def write(code: str, name: str = "own.py") -> None:
    Path("verifiers", name).write_text(textwrap.dedent(code))


def scores(texts: list[str], columns: list[dict], name: str = "verifiers/own.py:score", timeout: float = 60.0) -> list[float | None]:
    """The scores of responses, each to a prompt of its own; None where the function abstains."""
    pairs = [([{"role": "user", "content": f"Question {i}?"}], text) for i, text in enumerate(texts)]
    rows = [{"columns": values, "source": f"data/own.jsonl:{i + 1}"} for i, values in enumerate(columns)]
    found = ScoringFunction(name, timeout).score(pairs, rows)
    assert found.dtype == np.float64 and found.shape == (len(texts),)
    return [None if np.isnan(value) else float(value) for value in found]


def error_of(texts: list[str], columns: list[dict] | None = None, **options) -> str:
    with pytest.raises(UserError) as caught:
        scores(texts, columns or [{}] * len(texts), **options)
    line = str(caught.value)
    assert "\n" not in line and line.startswith("verifier_functions: verifiers/own.py:score ")
    return line


def test_a_function_is_called_as_trls_trainer_calls_it(folder):
    """Of conversations: messages, and a list for each column, by keyword. A column that some rows lack is None there."""
    write("""
        import json
        def score(prompts, completions, log_extra, log_metric, **columns):
            log_extra("length", [0])
            with open("seen.json", "w") as file:
                json.dump([prompts, completions, columns], file)
            return [1, None, 0.25]
    """)
    assert scores(["a", "b", "c"], [{"answer": "3", "level": 2}, {}, {"answer": [4]}]) == [1.0, None, 0.25]
    prompts, completions, columns = json.loads(Path("seen.json").read_text())
    assert prompts[1] == [{"role": "user", "content": "Question 1?"}]
    assert completions == [[{"role": "assistant", "content": text}] for text in "abc"]
    assert columns == {"answer": ["3", None, [4]], "level": [2, None, None]}


@pytest.mark.slow
def test_trls_accuracy_reward_runs_as_it_comes(folder):
    """One third, one half, and a gold answer without a formula, from which the function abstains."""
    write("from trl.rewards import accuracy_reward", "trl.py")  # no module of that name is hidden by the file's
    texts = [r"My answer is \boxed{\frac{1}{3}}", r"My answer is \boxed{\frac{1}{2}}", "3", r"\boxed{3}"]
    columns = [{"solution": r"\frac{1}{3}"}] * 2 + [{"solution": "none at all"}, {"answer": "3"}]
    assert scores(texts, columns, "verifiers/trl.py:accuracy_reward") == [1.0, 0.0, None, None]


def test_reasoning_gyms_scorers_run_as_they_come(folder):
    gym = pytest.importorskip("reasoning_gym")
    write("""
        from reasoning_gym import get_score_answer_fn
        def score(completions, question, answer, metadata, **columns):
            rows = zip(completions, question, answer, metadata, strict=True)
            entries = [(text[0]["content"], {"question": q, "answer": a, "metadata": m}) for text, q, a, m in rows]
            return [get_score_answer_fn(entry["metadata"]["source_dataset"])(text, entry) for text, entry in entries]
    """)
    entries = [gym.create_dataset(name, size=1, seed=7)[0] for name in ("chain_sum", "leg_counting")]
    assert scores([entry["answer"] for entry in entries], entries) == [1.0, 1.0]
    by_hand = [gym.get_score_answer_fn(entry["metadata"]["source_dataset"])("no idea", entry) for entry in entries]
    assert scores(["no idea", "no idea"], entries) == by_hand
    (partial,) = scores([f"It is {entries[0]['answer']}."], entries[:1])
    assert 0 < partial < 1  # partial credit is passed on as it is


def test_functions_share_code_and_hide_no_library_of_their_name(folder):
    write("import math_verify\ndef clean(text):\n    return text.strip()\n", "shared.py")
    write(
        """
        import math_verify
        from verifiers.shared import clean
        def score(completions, **columns):
            return [float(clean(completion[0]["content"]) == "3" and hasattr(math_verify, "parse")) for completion in completions]
    """,
        "math_verify.py",
    )
    assert scores([" 3 ", "4"], [{}, {}], "verifiers/math_verify.py:score") == [1.0, 0.0]


def test_asynchronous_functions_and_numbers_of_other_libraries(folder):
    write("""
        import asyncio
        import numpy as np
        async def score(completions, **columns):
            await asyncio.sleep(0)
            return np.arange(len(completions)) / 2
    """)
    assert scores(["a", "b", "c"], [{}] * 3) == [0.0, 0.5, 1.0]


def test_a_function_is_not_asked_where_it_requires_what_the_row_lacks(folder):
    write("""
        def score(completions, answer):
            assert None not in answer
            return [float(completion[0]["content"] == expected) for completion, expected in zip(completions, answer, strict=True)]
    """)
    assert scores(["3", "4", "4"], [{"answer": "3", "unused": 1}, {"answer": "3"}, {"answer": None}]) == [1.0, 0.0, None]
    assert scores(["3"], [{}]) == [None]


def test_what_a_function_prints_and_reads_meets_no_request(folder, capfd):
    write("""
        import sys
        def score(completions, **columns):
            print("{}", sys.stdin.read())
            sys.stdout.flush()
            return [1.0] * len(completions)
    """)
    assert scores(["a"], [{}]) == scores(["a"], [{"again": 1}]) == [1.0]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("throw(text)", "raised ValueError: no"),
        ("float('nan') if 'bad' in text else 1.0", "returned nan"),
        ("float('inf') if 'bad' in text else 1.0", "returned inf"),
        ("'1' if 'bad' in text else 1.0", "returned '1'"),
        ("sys.exit(3) if 'bad' in text else 1.0", "raised SystemExit: 3"),
        ("os._exit(3) if 'bad' in text else 1.0", "ended its process (exit code 3)"),
        ("os.kill(os.getpid(), 9) if 'bad' in text else 1.0", "ended its process (signal 9)"),
        ("time.sleep(60) if 'bad' in text else 1.0", "did not return within 1 s"),
    ],
)
def test_a_response_on_which_a_function_fails_is_named(folder, code, says):
    """The second of three, with the prompt's text and its row; a process that was lost is started anew."""
    write(f"""
        import os, sys, time
        def throw(text):
            if "bad" in text:
                raise ValueError("no\\nsuch thing")
            return 1.0
        def score(completions, **columns):
            return [one(completion[0]["content"]) for completion in completions]
        def one(text):
            return {code}
    """)
    line = error_of(["good", "a bad one", "good"], timeout=1.0)
    assert says in line and "data/own.jsonl:2" in line and "'Question 1?'" in line
    assert scores(["good"], [{}]) == [1.0]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("[1.0]", "returned 1 scores for 3 responses"),
        ("1.0", "returned float, not a list of scores"),
        ("{}", "returned dict, not a list of scores"),
    ],
)
def test_what_is_no_list_of_scores_is_refused(folder, code, says):
    write(f"def score(completions, **columns):\n    return {code}\n")
    line = error_of(["a", "b", "c"])
    assert f"{says} on a response to data/own.jsonl:1 ('Question 0?')" in line


def test_a_call_that_is_too_slow_for_many_says_so(folder):
    write("import time\ndef score(completions, **columns):\n    time.sleep(0.1 * len(completions))\n    return [1.0] * len(completions)\n")
    line = error_of(["a"] * 20, timeout=1.0)
    assert "did not return within 1 s for 20 responses at once, though for none of them alone" in line and "verifier_timeout" in line


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (None, "verifiers/own.py: no such file"),
        ("def another(completions): ...", "no function 'score'"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def score(completions, completion_ids): ...", "completion_ids, which only a trainer has"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_told_before_anything_is_trained(folder, code, says):
    if code:
        write(code)
    with pytest.raises(UserError, match="^verifier_functions: verifiers/own.py:score: ") as caught:
        check_functions(["verifiers/own.py:score"], [{"answer": "3"}])
    assert says in str(caught.value)


def test_a_column_that_no_regret_prompt_has_is_told_before_anything_is_trained(folder):
    write("def score(completions, solution, level=1): ...")
    check_functions(["verifiers/own.py:score"], [{"answer": "3"}, {"solution": "4"}])
    with pytest.raises(UserError, match="requires the column 'solution', which no regret prompt has; they have answer, question"):
        check_functions(["verifiers/own.py:score"], [{"answer": "3", "question": "?", "solution": None}])


def test_the_environment_of_functions_holds_no_keys(folder, monkeypatch):
    secrets = ("ANCHORA_JUDGE_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "aws_secret_access_key", "TOKEN", "DB_PASSWORD")
    for name in (*secrets, "HARMLESS"):
        monkeypatch.setenv(name, "0123456789")
    write("""
        import os
        def score(completions, **columns):
            return [float(completion[0]["content"] in os.environ) for completion in completions]
    """)
    assert scores([*secrets, "HARMLESS"], [{}] * 7) == [0.0] * 6 + [1.0]


def test_finished_calls_stay_until_a_function_is_edited(folder, monkeypatch):
    """A run that fails in its last call has the others when it goes on; an edit asks all of them anew."""
    monkeypatch.setenv("ANCHORA_STAGE_SCRATCH", str(folder / "scratch"))
    code = """
        import pathlib
        def score(completions, **columns):
            with open("calls", "a") as file:
                file.write(f"{len(completions)} ")
            if pathlib.Path("broken").exists() and len(completions) < 3:
                raise OSError("the sandbox is down")
            return [1.0] * len(completions)
    """
    write(code)
    texts, columns = [str(i) for i in range(2 * CALL_SIZE + 1)], [{}] * (2 * CALL_SIZE + 1)
    Path("broken").touch()
    assert "the sandbox is down" in error_of(texts, columns) and "data/own.jsonl:129" in error_of(texts, columns)
    assert Path("calls").read_text().split() == ["64", "64", "1", "1"]
    Path("broken").unlink()
    assert scores(texts, columns) == [1.0] * len(texts)
    assert Path("calls").read_text().split() == ["64", "64", "1", "1", "1"]
    write(code.replace("1.0", "2.0"))
    forget()
    assert scores(texts, columns) == [2.0] * len(texts)
    assert Path("calls").read_text().split()[5:] == ["64", "64", "1"]


@pytest.mark.slow
def test_a_function_that_hangs_does_not_outlive_a_stage_that_is_killed(folder):
    write("import time\ndef score(completions, **columns):\n    open('asked', 'w').close()\n    time.sleep(600)\n")
    code = "from anchora.verifiers.functions import ScoringFunction as F; F('verifiers/own.py:score', 600).score([([], 'a')], [{}])"
    stage = subprocess.Popen([sys.executable, "-c", code], env=environment(PYTHONPATH=str(Path(functions.__file__).parents[2])))
    wait_for(lambda: Path("asked").exists())
    assert running(folder, "function_process")
    os.kill(stage.pid, signal.SIGKILL)
    stage.wait()
    wait_for(lambda: not running(folder, "function_process"), seconds=10)
