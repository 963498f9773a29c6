"""The project keeps its own rules: format, lint, types, and imports that run one way."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "goodreads"
SCRIPTS = (
    "data_loader.py",
    "train.py",
    "evaluate_model.py",
    "push_to_hub.py",
    "plot_results.py",
    "predict.py",
)
ALLOWED = {  # folder -> folders that it may import from
    "common": set(),
    "data": {"common"},
    "model": {"common", "data"},
    "evaluation": {"common", "data", "model"},
    "hub": {"common", "data", "model"},
    "training": {"common", "data", "model", "evaluation"},
}


@pytest.mark.parametrize("tool", [("ruff", "format", "--check"), ("ruff", "check"), ("mypy",)], ids=" ".join)
def test_the_source_passes(tool: tuple[str, ...]) -> None:
    result = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def imported(path: Path) -> set[str]:
    """Names of the project's own modules that a file imports, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_run_one_way(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        used = {name.split(".")[1] for name in imported(path) if name.startswith("goodreads.")}
        assert used <= ALLOWED[folder] | {folder}, path
        assert not [name for name in imported(path) if f"{name}.py".startswith(SCRIPTS)], path


def test_every_folder_has_a_place_in_the_order() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ALLOWED)


def test_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().partition("## Where things are")[2].partition("```\n")[2]
    package = tree.partition("goodreads/")[2].partition("\ntools/")[0]
    named = set(re.findall(r"\w+", package))
    assert named >= {path.stem for path in PACKAGE.glob("*/*.py")} - {"__init__"}
    assert all(
        (ROOT / line.split()[0]).exists() for line in tree.partition("```")[0].splitlines() if line[:1] > " "
    )
