"""Imports go one way through the wings, and nothing heavy comes along with the sampler."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "st_cluster_batches"

# From the lowest wing to the highest; those on one line may not import each other.
ORDER = [
    ["storage"],
    ["row_keys"],
    ["columns", "column_values", "target_values"],
    ["data"],
    ["plans"],
    ["clusters", "batches"],  # the two halves, which meet in columns alone
    ["losses", "refresh"],
    ["training"],
    ["evaluation"],
    ["inspection", "publishing"],
    ["demo"],
    ["usage"],
    ["commands"],
    ["parsing"],
    ["__main__", "__init__"],
]
FLOOR = {wing: floor for floor, wings in enumerate(ORDER) for wing in wings}


def name_module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def list_imports(path: Path) -> set[str]:
    """List what a module imports of the package, at its top, in functions, or for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("st_cluster_batches."):
                parts = name.split(".")[1:]
                found.add(".".join(parts) if ".".join(parts) in MODULES else ".".join(parts[:-1]))
    return found


def test_every_module_is_in_a_wing() -> None:
    assert {name.split(".")[0] for name in MODULES} <= set(FLOOR)


def test_no_import_runs_upward() -> None:
    for name, path in MODULES.items():
        wing = name.split(".")[0]
        for other in list_imports(path):
            target = other.split(".")[0]
            assert target == wing or FLOOR[target] < FLOOR[wing], f"{name} imports {other}"


def test_there_is_no_circle() -> None:
    imports = {name: list_imports(path) & set(MODULES) for name, path in MODULES.items()}
    settled: set[str] = set()
    while ready := {name for name, others in imports.items() if name not in settled and others <= settled}:
        settled |= ready
    assert settled == set(MODULES), f"circles among {sorted(set(MODULES) - settled)}"


def test_no_module_bears_the_name_of_a_public_function_or_of_its_wing() -> None:
    import st_cluster_batches

    for name in MODULES:
        wing, _, room = name.partition(".")
        assert room not in st_cluster_batches.__all__
        assert room not in (wing, wing.removesuffix("s")), name


def test_the_sampler_brings_no_other_half_along() -> None:
    code = (
        "import sys, sentence_transformers.base.sampler\n"
        "before = set(sys.modules)\n"
        "from st_cluster_batches import ClusterBatchSampler\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    new = ran.stdout.split()
    wings = ("training", "evaluation", "inspection", "publishing", "refresh", "clusters", "data")
    assert not [name for name in new if name.startswith(tuple(f"st_cluster_batches.{wing}" for wing in wings))]
    assert not {name.split(".")[0] for name in new} & {"faiss", "mteb", "matplotlib", "plotly"}
