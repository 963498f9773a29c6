"""What the scripts of the genre classifier share; README, "Where things are", has a tour."""

import sys
from importlib.util import find_spec

# in one line, before anything that would fail with a traceback
if sys.version_info < (3, 11):  # noqa: UP036
    print(f"error: Python 3.11 or newer is needed, and this is {sys.version.split()[0]}", file=sys.stderr)
    raise SystemExit(2)
if missing := [name for name in ("filelock", "tqdm") if find_spec(name) is None]:
    print(
        f"error: {sys.executable} has no package {missing[0]}; use the Python of the project's environment, "
        "or install into this one: pip install -r requirements.txt",
        file=sys.stderr,
    )
    raise SystemExit(2)
