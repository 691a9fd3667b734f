"""The command line: results on stdout, progress and logs on stderr; exit code 1 for a failure, 2 for bad input."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import TextIOWrapper

from st_cluster_batches import commands
from st_cluster_batches.parsing import build_parser
from st_cluster_batches.publishing.failures import PublishError
from st_cluster_batches.storage.numbers import DivergedError
from st_cluster_batches.storage.processes import is_first_process
from st_cluster_batches.usage import UsageError

# Nothing heavier is imported here: `--help` should answer at once.


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        words: The command line without the program's name; `sys.argv` by default.

    Returns:
        The exit code: 0, 1 if the command failed, 2 if its input is at fault.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    try:
        arguments, rest = build_parser().parse_known_args(words)
        if rest and arguments.command not in ("train", "compare"):
            raise UsageError(f"unrecognised arguments: {' '.join(rest)}")
        if arguments.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"  # read when the Hugging Face libraries are imported
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("st_cluster_batches").setLevel(logging.INFO)
        logging.getLogger("mteb").setLevel(logging.ERROR)  # it warns of every model that is on no leaderboard
        warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")
        from tqdm.contrib.logging import logging_redirect_tqdm

        # Trainers and progress bars write to stdout, which is for results. Log lines go above a bar, not into it.
        with redirect_stdout(sys.stderr), logging_redirect_tqdm():
            result, text = getattr(commands, arguments.command)(arguments, rest)
        if is_first_process():
            print(json.dumps(result) if arguments.json else text, flush=True)
    except UsageError as error:
        print(f"st-cluster-batches: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output has gone; keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, PublishError, DivergedError) as error:  # no connection, a full disk, a loss of NaN
        print(f"st-cluster-batches: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("st-cluster-batches: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
