"""The error that a person can act on, and one line for whatever else a machine does to a stage."""

from __future__ import annotations

import errno


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
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return (
            f"out of memory ({text}); lower batch_size, update_batch_tokens, scoring_batch_tokens or sampling_batch_size, "
            "or set gradient_checkpointing: true"
        )
    return f"{type(error).__name__}: {text} (ANCHORA_DEBUG=1 shows where)"
