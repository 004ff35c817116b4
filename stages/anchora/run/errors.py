"""The error that a person can act on, and one line for whatever else a machine does to a stage."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """An error told in one line, without a traceback: the file, the row or the field, what is wrong with it, and what to do."""


def explain(error: Exception) -> str:
    """Say what went wrong and what to do.

    A UserError says both itself. A full disk, missing permissions and lack of memory get advice. Anything else names the
    exception and how to see its traceback.
    """
    text = str(error)
    if isinstance(error, UserError):
        return text
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return f"the disk is full ({text}); free some space, then `dvc repro` goes on from here"
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission ({text}); make the project's folders writable for this user"
    if is_lack_of_memory(error):
        return (
            f"out of memory ({text}); lower batch_size, update_batch_tokens, scoring_batch_tokens or sampling_batch_size, "
            "or set gradient_checkpointing: true"
        )
    return f"{type(error).__name__}: {text} (ANCHORA_DEBUG=1 shows where)"


def is_lack_of_memory(error: Exception) -> bool:
    """Return whether an error says that main memory or a GPU's has run out."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says, 200 characters of it."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def located(location: str | None) -> Iterator[None]:
    """Put ``location``, the file and row that is read, before each UserError of a ``with`` block; None leaves it as it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{location}: {error}" if location else str(error)) from None


@contextmanager
def refused(reason: str) -> Iterator[None]:
    """Turn whatever other people's code raises in a ``with`` block into a UserError: ``reason``, with the error for its ``{error}``.

    A UserError and a lack of memory pass as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or is_lack_of_memory(error):
            raise
        raise UserError(reason.replace("{error}", first_line(error))) from None
