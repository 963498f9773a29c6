"""The project keeps its own rules: format, lint, types, sizes, and imports that run one way."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "goodreads"
SCRIPTS = sorted(ROOT.glob("*.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {  # folder -> folders that it may import from
    "common": set(),
    "data": {"common"},
    "model": {"common", "data"},
    "evaluation": {"common", "data", "model"},
    "hub": {"common", "data", "model"},
    "training": {"common", "data", "model", "evaluation"},
}
# private names of libraries that are used all the same: at most three, each with a test of its own
PRIVATE = {
    "training/trainer.py _n_gpu",
    "model/packed.py _flash_attention_forward",
    "model/packed.py _efficient_attention_forward",
}
# documented, whatever the underscore says
PUBLIC = {"os._exit", "_replace", "_asdict", "_fields", "_make", "_info", "_compute", "_typeshed"}
NOT_CODE = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def short(path: Path) -> str:
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()


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


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_run_one_way(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        used = {name.split(".")[1] for name in imported(parse(path)) if name.startswith("goodreads.")}
        assert used <= ALLOWED[folder] | {folder}, path


def test_scripts_are_imported_by_nobody() -> None:
    scripts = {path.stem for path in SCRIPTS}
    for path in (*SCRIPTS, *MODULES):
        assert not {name.split(".")[0] for name in imported(parse(path))} & scripts, path


def test_every_folder_has_a_place_in_the_order() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ALLOWED)


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def test_slow_imports_stand_in_one_place_of_a_script_and_at_the_top_of_a_module() -> None:
    for path in (*SCRIPTS, *MODULES):
        local = [function.name for function in functions(parse(path)) if imported(function)]
        assert len(local) <= (path in SCRIPTS), (path, local)


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines with code: no blank line, comment or docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if tokenize.tok_name[token.type] not in NOT_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


@pytest.mark.parametrize("path", [*SCRIPTS, *MODULES], ids=short)
def test_nothing_is_too_long_to_read(path: Path) -> None:
    lines = code_lines(path)
    assert len(lines) <= (150 if path in SCRIPTS else 200)
    for function in functions(parse(path)):
        own = lines & set(range(function.lineno, (function.end_lineno or 0) + 1))
        assert len(own) <= 50, function.name


def private_names(path: Path) -> set[str]:
    """Names with a leading underscore of a library: used and not made here, or methods that it calls."""
    nodes = list(ast.walk(parse(path)))
    methods = {
        f.name
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for f in node.body
        if isinstance(f, Function)
    }
    own = {node.name for node in nodes if isinstance(node, Function | ast.ClassDef)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    own |= {
        ast.unparse(node)[5:]
        for node in attributes
        if re.fullmatch(r"self\._\w+", ast.unparse(node)) and isinstance(node.ctx, ast.Store)
    }
    used = {node.attr for node in attributes if ast.unparse(node) not in PUBLIC}
    taken = {part for name in imported(parse(path)) for part in name.split(".")}
    names = ((used | taken) - own) | (methods - used)
    return {name for name in names - PUBLIC if re.match("_[^_]", name)}


def test_library_internals_are_left_alone() -> None:
    found = {f"{short(path)} {name}" for path in (*SCRIPTS, *MODULES) for name in private_names(path)}
    assert found <= PRIVATE
    assert len(PRIVATE) <= 3


def test_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().partition("## Where things are")[2].partition("```\n")[2]
    package = tree.partition("goodreads/")[2].partition("\ntools/")[0]
    assert set(re.findall(r"\w+", package)) >= {path.stem for path in MODULES} - {"__init__"}
    files = [line.split()[0] for line in tree.partition("```")[0].splitlines() if line[:1] > " "]
    assert all((ROOT / name).exists() for name in files)
