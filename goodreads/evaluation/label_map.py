"""What a model's labels stand for: slugs, the genres' human names, or names that --label-map explains."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from goodreads.common.errors import InputError
from goodreads.data.genres import GENRES, match_labels


def parse_label_map(text: str) -> dict[str, str]:
    """``LABEL_0=children,LABEL_1=poetry``, or the path of a JSON or YAML file with such pairs.

    Raises:
        InputError: it is neither.
    """
    if "=" in text and not Path(text).is_file():
        pairs = [pair.partition("=") for pair in text.split(",")]
        found = {name.strip(): genre.strip() for name, _, genre in pairs}
    else:
        try:
            found = yaml.safe_load(Path(text).read_text(encoding="utf-8"))  # JSON is YAML too
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(
                f"--label-map {text} cannot be read ({error}); give a JSON file, or LABEL_0=children,..."
            ) from error
    if not isinstance(found, dict) or not all(isinstance(v, str) and v for v in found.values()):
        raise InputError(f"--label-map {text} does not name a genre for each label: LABEL_0=children,...")
    return {str(name): genre for name, genre in found.items()}


def renamed(model_labels: Sequence[str], label_map: Mapping[str, str], model: str) -> list[str]:
    """The genre slug that each label of a model stands for; a label that names no genre stays as it is.

    ``History & Biography`` and the like are known without a map.

    Raises:
        InputError: the map names a label that the model has not.
    """
    if unknown := sorted(label_map.keys() - set(model_labels)):
        raise InputError(
            f"--label-map: {model} has no label {unknown[0]!r}, but {', '.join(model_labels[:8])}"
        )
    names = [label_map.get(label, label) for label in model_labels]
    slugs = [re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_") for name in names]
    return [slug if slug in GENRES else name for slug, name in zip(slugs, names)]


def label_columns(
    model_labels: Sequence[str], data_labels: Sequence[str], label_map: Mapping[str, str], model: str
) -> list[int]:
    """For each label of the data its column in the model's logits.

    Args:
        model_labels: the model's label names by id.
        data_labels: the split's slugs by label id.
        label_map: what some of the model's labels stand for.
        model: how to name the model in an error.

    Raises:
        InputError: the labels are not those of the data, whatever the order.
    """
    names = renamed(model_labels, label_map, model)
    try:
        return match_labels(names, data_labels, model)
    except InputError as error:
        raise InputError(f"{error}; or say what they stand for: --label-map LABEL_0=children,...") from None
