"""Remove from a virtual environment what running the scripts never needs, then compile the rest.

    python docker/slim.py /opt/venv        # a step of Dockerfile and Dockerfile.eval

Headers, the packages' own tests and build tools go. docs/containers.md says what to do when a removal is one
too many. Bytecode is compiled without time stamps: an image's files do not change, and copying a layer may
change theirs. Standard library only.
"""

import compileall
import os
import py_compile
import shutil
import sys
from pathlib import Path

# patterns below site-packages
NOT_NEEDED = (
    "**/tests",
    "torch/test",
    "torch/include",
    "torch/share",
    "torch/bin/[!t]*",  # torch_shm_manager stays: without it torch reports a broken installation
    "torch/bin/test_*",
    "torch/lib/*test*",
    "**/*.a",
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/*flight*",  # clients for Arrow's RPC and for S3
    "pyarrow/*s3*",
    "numpy/_core/include",
    "**/*.h",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.pyi",
    "setuptools*",
    "_distutils_hack",
    "distutils-precedence.pth",
    "pip",
    "pip-*",
)

KEPT = ("nvidia", "triton")  # CUDA builds compile with their headers at run time


def main() -> None:
    """Remove, compile, and print the sizes."""
    (packages,) = Path(sys.argv[1]).glob("lib/python3.*/site-packages")
    before = size(packages)
    for pattern in NOT_NEEDED:
        for path in sorted(packages.glob(pattern)):
            if path.relative_to(packages).parts[0] in KEPT:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    removed = before - size(packages)
    compileall.compile_dir(
        packages,
        quiet=2,  # a module for a newer Python does not compile, and is not imported either
        force=True,
        workers=os.cpu_count() or 1,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    print(f"{packages}: {removed / 1e6:.0f} MB removed, {size(packages) / 1e6:.0f} MB with bytecode")


def size(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
