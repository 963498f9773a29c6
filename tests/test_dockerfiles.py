"""The images' files without a container engine: lint, shared layers, pins, and what goes in."""

import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import ROOT
from tests.test_house import PACKAGE, SOURCES, imported

DOCKERFILES = ("Dockerfile", "Dockerfile.eval")
LEFT_OUT = {"matplotlib", "seaborn"}  # by the grep in the Dockerfiles
DRAW = PACKAGE / "evaluation" / "figures.py"  # the file that imports those
OF_CUDA = ("nvidia", "cuda", "triton")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """Package -> version of the ``package==version`` lines of a file."""
    found = re.findall(r"^([\w.-]+)==(\S+)$", text(name), re.M)
    return {canonicalize_name(package): version for package, version in found}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_passes_and_any_builder_knows_the_syntax(name: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    subprocess.run([hadolint, ROOT / name], check=True)
    instructions = [line for line in text(name).splitlines() if not re.match(r"#(?! *syntax)", line)]
    for forbidden in ("# syntax", "<<", "--link", "--mount", "HEALTHCHECK", "apt-get", "TOKEN"):
        assert not [line for line in instructions if forbidden in line], forbidden


def test_both_files_begin_with_the_same_layers_dependencies_first() -> None:
    files = [re.sub(r"Dockerfile\S*", "", text(name)) for name in DOCKERFILES]
    local, hub = (content.split("# ---- the same")[1].strip() for content in files)
    assert local == hub
    stage = local.split("AS venv")[1].split("FROM")[0]
    copied = re.findall(r"^COPY (.*)$", stage, re.M)
    assert copied == ["requirements.txt constraints.txt ./", "docker/slim.py ./"]
    assert stage.count("--constraint constraints.txt") == 2


def test_the_constraints_pin_every_requirement_and_whatever_those_need() -> None:
    locked, asked = pins("constraints.txt"), pins("requirements.txt")
    assert {name: locked.get(name) for name in asked} == asked, "run: make lock"
    assert len(locked) == len([line for line in text("constraints.txt").splitlines() if line[0] != "#"])
    needed: set[str] = set()
    for package in locked:
        with suppress(PackageNotFoundError):  # of another platform
            for requirement in map(Requirement, requires(package) or []):
                if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                    needed.add(canonicalize_name(requirement.name))
    assert not {name for name in needed - locked.keys() if not name.startswith(OF_CUDA)}, "run: make lock"
    assert not {name for name in locked if name.startswith(OF_CUDA)}


def test_requirements_name_what_the_code_imports_and_the_images_hold_it() -> None:
    for name in DOCKERFILES:
        assert set(re.findall(r"\^(\w+)=", text(name))) == LEFT_OUT
    names, own = packages_distributions(), {"goodreads", "_typeshed", *sys.stdlib_module_names}
    asked = pins("requirements.txt").keys()
    for path, tree in SOURCES.items():
        modules = {name.partition(".")[0] for name in imported(tree)} - own
        used = {canonicalize_name(package) for module in modules for package in names.get(module, [module])}
        assert used <= asked, path
        assert bool(used & LEFT_OUT) == (path == DRAW), path


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
    hardened = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
    assert all(service.items() >= hardened.items() for service in services.values())
    assert all("./results:/app/results" in service["volumes"] for service in services.values())
    assert services["local"]["network_mode"] == "none"
    assert set(services["hub"]["environment"]) == {"HF_TOKEN", "HF_REPO", "HF_REVISION"}
