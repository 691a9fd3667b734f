from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(target), str(ROOT)]
    subprocess.run(command, check=True)
    return next(target.glob("*.whl"))


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    package = ROOT / "st_cluster_batches"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in files if (ROOT / name).is_file()}
    assert "st_cluster_batches/py.typed" in packed


def test_installed_wheel_answers_help_without_heavy_imports(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import st_cluster_batches.__main__ as cli\n"
        "assert cli.__file__.startswith(sys.path[0])\n"
        "cli.build_parser().format_help()\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'faiss', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout.strip() == "[]"


def test_faiss_is_in_no_unconditional_dependency() -> None:
    project = metadata("st-cluster-batches")
    unconditional = [one for one in project.get_all("Requires-Dist") or [] if "extra ==" not in one]
    assert unconditional and not [one for one in unconditional if "faiss" in one]
    assert {"cpu", "gpu", "eval", "demo", "plots", "dev"} <= set(project.get_all("Provides-Extra") or [])
