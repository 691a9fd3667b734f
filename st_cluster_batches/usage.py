"""What the user gave, refused in one line before any work."""

from __future__ import annotations

import argparse
import ast
import errno
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Errors of the system that a wrong path causes.
_PATH_ERRORS = ["ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "EACCES", "EPERM", "EROFS", "EINVAL", "ELOOP", "ENAMETOOLONG"]

# What a message tells a caller in Python, and how it is said on the command line.
_WORDS_FOR = {
    "trust_remote_code": "--trust_remote_code, in a recipe trust_remote_code: true, if you trust it",
    "overwrite=True": "--overwrite of attach",
    "source_column=None": "--source_column none of attach, tune, train or compare",
    "resume_from_checkpoint=None": "--resume_from_checkpoint false",
}


class UsageError(Exception):
    """Bad input, found before any work."""


@contextmanager
def checking_input() -> Iterator[None]:
    """Turn the errors that bad input raises into a `UsageError` of one line."""
    try:
        yield
    except ConnectionError:
        raise  # an OSError, but not caused by the input
    except OSError as error:
        if error.errno is not None and errno.errorcode.get(error.errno) not in _PATH_ERRORS:
            raise  # nor is a full or a failing disk
        raise UsageError(" ".join(str(error).split())) from error
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(explain_at_prompt(error)) from error


def explain_at_prompt(error: Exception) -> str:
    """Return the message of an error in one line, with the words of the command line for the calls that it names."""
    message = " ".join(str(error).split())
    if named := re.search(r"columns=(\((?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|, ?)*\))", message):
        message += f" (here: --columns {shlex.join(ast.literal_eval(named[1]))})"
    if counted := re.findall(r"\bn_(seeds|epochs|steps|layers|workers)\b", message):
        message += f" (here: {', '.join(f'--{one}' for one in dict.fromkeys(counted))})"
    return message + "".join(f" (here: {words})" for call, words in _WORDS_FOR.items() if call in message)


def refuse_given(arguments: argparse.Namespace, names: Iterable[str], what: str) -> None:
    """Refuse options of a model's card where there is nothing to write them into."""
    if given := [f"--{name}" for name in names if getattr(arguments, name.replace("-", "_"))]:
        raise ValueError(
            f"{arguments.folder} is {what}: {', '.join(given)} mean nothing to it; leave them out, or give them to "
            "`build` with the model"
        )
