"""The project keeps its own rules: format, lint and types, as `make check` does."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT


@pytest.mark.parametrize("tool", [("ruff", "format", "--check"), ("ruff", "check"), ("mypy",)], ids=" ".join)
def test_the_source_passes(tool: tuple[str, ...]) -> None:
    result = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().partition("## Where things are")[2].partition("```\n")[2]
    package = tree.partition("goodreads/")[2].partition("\nDockerfile")[0]
    named = {
        word.strip(",") for line in package.splitlines() for word in line.strip().partition("    ")[0].split()
    }
    assert named >= {path.stem for path in (ROOT / "goodreads").glob("*.py")} - {"__init__"}
    assert all(
        (ROOT / line.split()[0]).exists() for line in tree.partition("```")[0].splitlines() if line[:1] > " "
    )
