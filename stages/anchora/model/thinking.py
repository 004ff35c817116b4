"""What a model thought before it answered: apart from the answer, which alone is read, verified and judged."""

from __future__ import annotations

BEGINS, ENDS = "<think>", "</think>"


def split_thinking(text: str, begun: bool = False) -> tuple[str | None, str]:
    """Return what was thought, None where nothing was, and the answer: what stands behind the last ``</think>``.

    A thought begins with the text, by ``<think>``, or with the prompt's own end where ``begun`` says so. One that never ends leaves no
    answer. A text that merely names the tags is an answer.
    """
    if not begun and not text.lstrip().startswith(BEGINS):
        return None, text
    thought, _, answer = text.rpartition(ENDS) if ENDS in text else (text, "", "")
    return thought.lstrip().removeprefix(BEGINS).strip(), answer.lstrip()


def thought_before(whole: str, answer: str) -> str:
    """Return what of a ``whole`` response stands before its ``answer``, as ``split_thinking`` gave it: the thought with its tags, or ""."""
    thought, tag, rest = whole.rpartition(ENDS)
    if not tag or ENDS in answer:
        return ""
    return thought + tag + rest[: len(rest) - len(rest.lstrip())]


def with_thinking(thought: str, answer: str, begun: bool = False) -> str:
    """Return a thought and the answer behind it as one text; where the prompt's end has ``begun`` the thought, without its first tag."""
    return f"{'' if begun else BEGINS + chr(10)}{thought}\n{ENDS}\n\n{answer}"


def without_thinking(answer: str, begun: bool) -> str:
    """Return an answer that nothing was thought before; where the prompt's end has ``begun`` a thought, behind the tag that closes it.

    An answer that has that tag itself stays as it is.
    """
    return with_thinking("", answer, begun) if begun and ENDS not in answer else answer


def is_unfinished(text: str, begun: bool = False) -> bool:
    """Return whether a response has begun to think, as ``split_thinking`` reads it, and never ended."""
    return ENDS not in text and split_thinking(text, begun)[0] is not None


def begins_thinking(prompt: str) -> bool:
    """Tell whether the rendered end of a prompt opens a thought, as the chat templates of models that always think do."""
    return prompt.rstrip().endswith(BEGINS)
