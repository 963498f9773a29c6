import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from goodreads.data.genres import GENRES, file_name
from goodreads.data.sample_reviews import gzip_file
from tests.helpers import QUICK, SMALL, run_script, succeeded

# before any test imports a library: leave the user's caches alone, and share the cores among the workers
_caches = tempfile.TemporaryDirectory(prefix="goodreads-tests-")
os.environ |= {"HF_HOME": f"{_caches.name}/hf", "MPLCONFIGDIR": f"{_caches.name}/mpl", "MPLBACKEND": "agg"}
os.environ.setdefault("OMP_NUM_THREADS", "1")

Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """``once(name, make)``: a folder that one of the pytest-xdist workers makes for all of them."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        made, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                made.mkdir()
                make(made)
                done.touch()
        return made

    return folder


@pytest.fixture(scope="session")
def files(once: Once) -> Path:
    """Eight files of 3,000 generated reviews; not to be changed."""

    def make(folder: Path) -> None:
        for genre in GENRES:
            (folder / file_name(genre)).write_bytes(gzip_file(genre, 3000))

    return once("byGenre", make)


@pytest.fixture(scope="session")
def small_data(once: Once) -> Path:
    """A small split of generated reviews; not to be changed."""

    def make(folder: Path) -> None:
        arguments = ("--source", "sample", *SMALL, "--output-dir", "data")
        succeeded(run_script("data_loader.py", *arguments, cwd=folder))

    return once("small", make) / "data"


@pytest.fixture(scope="session")
def trained(once: Once, small_data: Path) -> Path:
    """A folder with model/ and results/ of a short training run and its evaluation; not to be changed."""

    def make(folder: Path) -> None:
        succeeded(run_script("train.py", *QUICK, "--data-dir", small_data, cwd=folder))
        succeeded(run_script("evaluate_model.py", "--data-dir", small_data, cwd=folder))

    return once("trained", make)


@pytest.fixture(scope="session")
def real() -> Path:
    """A folder with real reviews (goodreads/*.json.gz) and a pretrained checkpoint (models/distil-mini)."""
    if not (folder := os.environ.get("GOODREADS_REAL")):
        pytest.skip("GOODREADS_REAL names no folder with real reviews and a pretrained checkpoint")
    return Path(folder).resolve()
