"""Put the results of `make sample` and `make real` into README.md and docs/images.

    python tools/update_readme.py --sample sample/results --real real/results

The text between `<!-- NAME -->` and `<!-- end of NAME -->` in README.md is replaced by a results file.
"""

import argparse
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Replace the marked parts and the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    text = source.read_text(encoding="utf-8").strip()
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    changed, count = re.subn(
        pattern,
        lambda found: found[1] + text + "\n" + found[2],
        readme.read_text(encoding="utf-8"),
        flags=re.S,
    )
    if count != 1:
        raise SystemExit(f"README.md has {count} parts marked {name!r}, not one")
    readme.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
