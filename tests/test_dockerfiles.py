"""The images' files without a container engine: lint, shared layers, pins, and what goes in."""

import ast
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.helpers import ROOT

DOCKERFILES = ("Dockerfile", "Dockerfile.eval")
LEFT_OUT = {"matplotlib", "seaborn"}  # by the grep in the Dockerfiles
DRAW = {"figures.py"}  # the files that import those
OF_CUDA = ("nvidia", "cuda", "triton")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """Package -> version of the ``package==version`` lines of a file."""
    found = re.findall(r"^([\w.-]+)==(\S+)$", text(name), re.M)
    return {package.lower().replace("_", "-"): version for package, version in found}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_passes(name: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([hadolint, ROOT / name], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_plain_syntax_that_any_builder_knows(name: str) -> None:
    instructions = [line for line in text(name).splitlines() if not re.match(r"#(?! *syntax)", line)]
    for forbidden in ("# syntax", "<<", "--link", "--mount", "HEALTHCHECK", "apt-get", "TOKEN"):
        assert not [line for line in instructions if forbidden in line], forbidden


def test_both_files_begin_with_the_same_layers_dependencies_first() -> None:
    shared = [
        re.sub(r"Dockerfile\S*", "", text(name).split("# ---- the same")[1]).strip() for name in DOCKERFILES
    ]
    assert shared[0] == shared[1]
    stage = shared[0].split("AS venv")[1].split("FROM")[0]
    assert re.findall(r"^COPY (.*)$", stage, re.M) == [
        "requirements.txt constraints.txt ./",
        "docker/slim.py ./",
    ]
    assert stage.count("--constraint constraints.txt") == 2


def test_the_constraints_pin_every_requirement_and_whatever_those_need() -> None:
    locked, asked = pins("constraints.txt"), pins("requirements.txt")
    assert {name: locked.get(name) for name in asked} == asked, "run: make lock"
    assert not [name for name in locked if name.startswith(OF_CUDA)]
    assert len(locked) == len([line for line in text("constraints.txt").splitlines() if line[0] != "#"])
    assert not needed(asked) - locked.keys(), "run: make lock"


def needed(packages: dict[str, str]) -> set[str]:
    """The packages that these need here, in turn."""
    found: set[str] = set()
    queue = list(packages)
    while queue:
        try:
            lines = requires(queue.pop()) or []
        except PackageNotFoundError:  # of another platform
            continue
        for requirement in map(Requirement, lines):
            name = requirement.name.lower().replace("_", "-")
            wanted = not requirement.marker or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in found and not name.startswith(OF_CUDA):
                found.add(name)
                queue.append(name)
    return found


def test_requirements_name_what_the_code_imports_and_the_images_hold_it() -> None:
    for name in DOCKERFILES:
        assert set(re.findall(r"\^(\w+)=", text(name))) == LEFT_OUT
    imported = {path: third_party(path) for path in (*ROOT.glob("*.py"), *(ROOT / "goodreads").rglob("*.py"))}
    assert {"torch", "transformers", "pyarrow"} <= set().union(*imported.values())
    names = packages_distributions()
    for path, modules in imported.items():
        used = {d.lower().replace("_", "-") for module in modules for d in names.get(module, [module])}
        assert used <= pins("requirements.txt").keys(), path
        assert not used & LEFT_OUT or path.name in DRAW, path


def third_party(path: Path) -> set[str]:
    """Top-level modules that a file imports anywhere, but the standard library's and the project's."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.partition(".")[0])
    return (
        modules
        - set(sys.stdlib_module_names)
        - {"goodreads", "_typeshed", *(path.stem for path in ROOT.glob("*.py"))}
    )


def test_the_build_context_is_a_list_of_what_may_go_in() -> None:
    rules = [line for line in text(".dockerignore").splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    reviews = [rule for rule in rules if rule.startswith(("!data/", "!results", "!tests", "!sample"))]
    assert reviews == ["!data/manifest.json", "!data/test.parquet"]
    assert "**/.*" in rules[rules.index("!model") :]


def test_compose_starts_both_services_hardened() -> None:
    services = yaml.safe_load(text("compose.yaml"))["services"]
    files = {name: service["build"]["dockerfile"] for name, service in services.items()}
    assert files == {"local": "Dockerfile", "hub": "Dockerfile.eval"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "./results:/app/results" in service["volumes"]
    assert services["local"]["network_mode"] == "none"
    assert set(services["hub"]["environment"]) == {"HF_TOKEN", "HF_REPO", "HF_REVISION"}


def test_slimming_removes_what_is_not_needed_and_compiles_the_rest(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    keep = ("torch/__init__.py", "torch/lib/libtorch.so", "torch/bin/torch_shm_manager", "nvidia/x/cuda.h")
    drop = ("torch/include/ATen.h", "torch/bin/protoc", "torch/bin/test_api", "pandas/tests/test_a.py")
    for name in (*keep, *drop):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("")
    subprocess.run([sys.executable, ROOT / "docker/slim.py", tmp_path], check=True, capture_output=True)
    assert [name for name in keep if not (packages / name).exists()] == []
    assert [name for name in drop if (packages / name).exists()] == []
    assert list(packages.glob("torch/__pycache__/__init__.*.pyc"))
