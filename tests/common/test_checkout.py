"""What git knows of the checkout."""

import subprocess
from pathlib import Path

import pytest

from goodreads.common import checkout


def test_the_commit_is_named_inside_a_checkout_alone(tmp_path: Path) -> None:
    assert checkout.commit(tmp_path) is None
    for command in ("init -q", "-c user.name=x -c user.email=x commit -q --allow-empty -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    assert len(str(checkout.commit(tmp_path))) == 40


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://me:SECRET@example.org/you/code.git", "https://example.org/you/code"),
        ("git@example.org:you/code.git", "https://example.org/you/code"),
        ("/srv/code", ""),
        ("", ""),
    ],
)
def test_the_address_of_the_code_holds_no_secret(tmp_path: Path, remote: str, address: str) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    if remote:
        subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", remote], check=True)
    assert checkout.address(tmp_path) == address
