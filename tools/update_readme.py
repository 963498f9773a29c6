"""Put the results of `make sample` and `make real` into README.md and docs/images.

    python tools/update_readme.py --sample sample/results --real real/results

The text between `<!-- NAME -->` and `<!-- end of NAME -->` in README.md is replaced by a results file.
"""

import argparse
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Replace the marked parts and the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=Path, help="results of `make sample`")
    parser.add_argument("--real", type=Path, help="results of `make real`")
    options = parser.parse_args()
    if options.sample:
        fill("sample results", options.sample / "comparison.md")
    if options.real:
        fill("real results", options.real / "comparison_tfidf_local.md")
        for name in ("confusion_matrix_local", "comparison_tfidf_local"):
            shutil.copyfile(options.real / f"{name}.png", ROOT / "docs/images" / f"{name}.png")


def fill(name: str, source: Path) -> None:
    """Replace the part of README.md that is marked with ``name`` by the text of ``source``."""
    readme = ROOT / "README.md"
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = readme.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not closed:
        raise SystemExit(f"README.md has no part marked {name!r}")
    text = source.read_text(encoding="utf-8").strip()
    readme.write_text(f"{before}{start}{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
