import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, SHARED, run_script, succeeded

SMALL = ("--head", 200, "--per-genre", 60, "--train-per-genre", 40)  # 320 train and 160 test reviews
QUICK = ("--recipe", "sample", "--num_train_epochs", 2, "--max_length", 64)  # 20 steps of 32


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files of 3,000 generated reviews, made by the product's own command; not to be changed."""
    folder = tmp_path_factory.mktemp("byGenre")
    arguments = ("-m", "goodreads.data.sample_reviews", "--output-dir", folder, "--reviews", 3000)
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, check=True)
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small split of generated reviews; not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    succeeded(run_script("data_loader.py", "--source", "sample", *SMALL, "--output-dir", "data", cwd=folder))
    return folder / "data"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """A folder with model/ and results/ of a short training run and its evaluation; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    succeeded(run_script("train.py", *QUICK, "--data-dir", small_data, cwd=folder))
    succeeded(run_script("evaluate_model.py", "--data-dir", small_data, cwd=folder))
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real reviews and a pretrained checkpoint, which only some machines have."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: no real reviews or pretrained checkpoint here")
    return SHARED
