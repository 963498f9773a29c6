"""What the scripts of the genre classifier share; README, "Where things are", has a tour."""

import sys
from importlib.util import find_spec

# in one line, before anything that would fail with a traceback
error = ""
if sys.version_info < (3, 11):  # noqa: UP036
    error = f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}"
elif missing := [name for name in ("filelock", "tqdm", "transformers") if find_spec(name) is None]:
    error = f"{sys.executable} has no package {missing[0]}; install it with: pip install -r requirements.txt"
if error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)
