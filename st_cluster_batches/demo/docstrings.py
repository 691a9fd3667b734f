"""Real pairs without a download: the docstrings of the packages in the user's own Python.

The query is a docstring's summary, the passage the rest of it; each top-level package is a source. Some packages, some
modules of the others, and some docstrings of the modules that are left are held out for evaluation.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash
from tqdm.auto import tqdm

from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.collection import Collection
from st_cluster_batches.data.holdout import hold_out

if TYPE_CHECKING:
    from datasets import Dataset

_STANDARD_LIBRARY = "python"

_SKIPPED_FOLDERS = {"tests", "test", "_vendor", "vendored", "site-packages", "idlelib", "lib2to3"}
_BYTES_PER_PACKAGE = 4_000_000  # parsing is the slow part, and enough is enough
_PAIRS_PER_PACKAGE = 2_500
_PAIRS_PER_SOURCE = 200  # packages with fewer pairs are no source
_HELD_OUT_MODULES = 8  # one module in so many
_HELD_OUT_PACKAGES = 3
_HELD_OUT_QUERIES, _HELD_OUT_DOCUMENTS = 1_000, 5_000
_LEAST_PAIRS = 400  # of fewer, tuning could not hold queries enough out
_REMEDY = "install more packages into this Python, or run the demo by another: PYTHON -m st_cluster_batches demo"
_PACKAGE = "package"  # not `source`: queries are held out of all packages together

COLLECTIONS = {  # from near to far
    "same_modules": "docstrings of the modules that are trained on, others than these",
    "unseen_modules": "docstrings of other modules of the same packages",
    "unseen_packages": "docstrings of other packages",
}


@dataclass(frozen=True)
class Docstring:
    """The docstring of one function or class."""

    package: str
    module: str
    summary: str
    rest: str

    @property
    def is_held_out(self) -> bool:
        """Whether its module is held out; the same modules on every machine."""
        return xxhash.xxh3_64_intdigest(self.module.encode()) % _HELD_OUT_MODULES == 0


def collect_docstrings() -> list[Docstring]:
    """Read the docstrings of all installed packages but this one, without importing any.

    Returns:
        Docstrings with summary and rest, in a fixed order; no summary and no rest appears twice.
    """
    folders = {_STANDARD_LIBRARY: Path(sysconfig.get_paths()["stdlib"])}
    for key in ("purelib", "platlib"):
        for init in Path(sysconfig.get_paths()[key]).glob("*/__init__.py"):
            folders[init.parent.name] = init.parent
    folders.pop(__name__.partition(".")[0], None)  # else every change of ours would draw other pairs
    seen: set[str] = set()
    found = []
    for package in tqdm(sorted(folders), "Reading docstrings", unit="package"):
        count = 0
        for docstring in _read_package(package, folders[package]):
            if docstring.summary in seen or docstring.rest in seen:
                continue
            seen.update((docstring.summary, docstring.rest))
            found.append(docstring)
            count += 1
            if count == _PAIRS_PER_PACKAGE:
                break
    return found


def split_docstrings(docstrings: list[Docstring], max_pairs: int | None) -> tuple[Dataset, dict[str, Collection]]:
    """Split docstrings into training pairs and three held-out collections, from near to far.

    Args:
        docstrings: As `collect_docstrings` gives them.
        max_pairs: Training pairs to keep at most, evenly over the list.

    Returns:
        Pairs with columns query, passage and source; and `COLLECTIONS` by name.

    Raises:
        ValueError: If the environment holds too few docstrings.
    """
    from datasets import Dataset

    sizes = Counter(one.package for one in docstrings)
    sources = sorted(name for name, size in sizes.items() if size >= _PAIRS_PER_SOURCE)
    if len(sources) < _HELD_OUT_PACKAGES + 2:
        raise ValueError(
            f"Only {len(sources)} installed packages have {_PAIRS_PER_SOURCE} docstrings: {sources}, and "
            f"{_HELD_OUT_PACKAGES + 2} are needed; {_REMEDY}"
        )
    # The smaller ones, so that training keeps most of the data.
    held_out = sorted(sources, key=lambda name: (sizes[name], name))[:_HELD_OUT_PACKAGES]
    training = [one for one in docstrings if one.package in sources and one.package not in held_out]
    pairs = [one for one in training if not one.is_held_out]
    columns = {
        "query": [one.summary for one in pairs],
        "passage": [one.rest for one in pairs],
        _PACKAGE: [one.package for one in pairs],
    }
    rows, texts = Dataset.from_dict(columns), ["query", "passage"]
    left, near = hold_out(rows, _HELD_OUT_QUERIES, _HELD_OUT_DOCUMENTS, columns=texts, warns=False)
    if len(left) < _LEAST_PAIRS:
        raise ValueError(
            f"The {len(sources)} packages {sources} leave {len(left)} docstrings to train on, and {_LEAST_PAIRS} are "
            f"needed, to tune on them too; {_REMEDY}"
        )
    if max_pairs is not None and len(left) > max_pairs:
        left = left.select([at * len(left) // max_pairs for at in range(max_pairs)])
    found = (
        next(iter(near.values())),
        _make_collection([one for one in training if one.is_held_out]),
        _make_collection([one for one in docstrings if one.package in held_out]),
    )
    return left.rename_column(_PACKAGE, SOURCE).flatten_indices(), dict(zip(COLLECTIONS, found, strict=True))


def _make_collection(docstrings: list[Docstring]) -> Collection:
    n_queries = min(len(docstrings), _HELD_OUT_QUERIES)  # evenly over the list; evaluation takes a third of the demo
    asked = [at * len(docstrings) // n_queries for at in range(n_queries)]
    queries = {f"q{at}": docstrings[at].summary for at in asked}
    corpus = {f"d{at}": ("", one.rest) for at, one in enumerate(docstrings)}
    return Collection(queries, corpus, {f"q{at}": {f"d{at}": 1} for at in asked})


def _read_package(package: str, folder: Path) -> Iterator[Docstring]:
    files = [path for path in folder.rglob("*.py") if not _SKIPPED_FOLDERS & set(path.relative_to(folder).parts)]
    # In hashed order, so that a large package is read here and there and not only in its first folders.
    files.sort(key=lambda path: xxhash.xxh3_64_intdigest(path.relative_to(folder).as_posix().encode()))
    n_bytes = 0
    for path in files:
        n_bytes += path.stat().st_size
        if n_bytes > _BYTES_PER_PACKAGE:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other people's invalid escape sequences
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue  # templates and deliberately broken files are no docstrings
        module = f"{package}/{path.relative_to(folder).as_posix()}"
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                summary, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                summary, rest = " ".join(summary.split()), " ".join(rest.split())[:1000]
                if 15 <= len(summary) <= 300 and len(rest) >= 60:
                    yield Docstring(package, module, summary, rest)
