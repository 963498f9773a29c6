"""The project keeps its own rules: format, lint, types, sizes, and imports that run one way."""

import ast
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "goodreads"
SCRIPTS = {path: ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.glob("*.py"))}
MODULES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = SCRIPTS | MODULES
ALLOWED = {  # folder -> folders that it may import from
    "common": set(),
    "data": {"common"},
    "model": {"common", "data"},
    "evaluation": {"common", "data", "model"},
    "hub": {"common", "data", "model"},
    "training": {"common", "data", "model", "evaluation"},
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("tool", [("ruff", "format", "--check"), ("ruff", "check"), ("mypy",)], ids=" ".join)
def test_the_source_passes(tool: tuple[str, ...]) -> None:
    result = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of what is imported anywhere in the tree."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_run_one_way_and_nobody_imports_a_script() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ALLOWED)
    scripts = {path.stem for path in SCRIPTS}
    for path, tree in SOURCES.items():
        names = [name.split(".") for name in imported(tree)]
        assert not {name[0] for name in names} & scripts, path
        if (folder := path.parent.name) in ALLOWED and path in MODULES:
            used = {name[1] for name in names if name[0] == "goodreads"}
            assert used <= ALLOWED[folder] | {folder}, path


def test_slow_imports_stand_in_one_place_of_a_script_and_at_the_top_of_a_module() -> None:
    for path, tree in SOURCES.items():
        local = [node.name for node in ast.walk(tree) if isinstance(node, Function) and imported(node)]
        assert len(local) <= (path in SCRIPTS), (path, local)


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that hold code: neither blank nor a comment or a docstring."""
    source, lines = path.read_text("utf-8"), set[int]()
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.string.strip() and token.type != tokenize.COMMENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_too_long_to_read(path: Path) -> None:
    lines = code_lines(path)
    assert len(lines) <= (150 if path in SCRIPTS else 200)
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, Function):
            assert len(lines & {*range(node.lineno, node.end_lineno + 1)}) <= 50, node.name


def test_the_house_stays_small() -> None:
    product = [path for path in SOURCES if path.name != "predict.py"]  # which is younger than the bar
    for paths, bar in ((product, 3000), ((ROOT / "tests").rglob("*.py"), 4300)):
        assert sum(len(code_lines(path)) for path in paths) <= bar


def test_at_most_three_internals_of_libraries_are_used() -> None:
    allowed = [path.name for path in SOURCES for _ in re.findall("noqa: SLF001", path.read_text("utf-8"))]
    assert len(allowed) <= 3, allowed  # ruff refuses all others; each of these has a test of its own


def test_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().partition("## Where things are")[2].partition("```\n")[2]
    package = tree.partition("goodreads/")[2].partition("\ntools/")[0]
    assert set(re.findall(r"\w+", package)) >= {path.stem for path in MODULES} - {"__init__"}
    files = [line.split()[0] for line in tree.partition("```")[0].splitlines() if line[:1] > " "]
    assert all((ROOT / name).exists() for name in files)
