import json
import shlex
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import data_loader
from goodreads.common.errors import InputError
from goodreads.data.genres import GENRES, parse_genres
from goodreads.data.sampling import Parameters, reservoir, sample_split
from tests.data.reviews import reference_sample, reviews, write_reviews

EVERYTHING: dict[str, Any] = {"head": None, "per_genre": None, "train_per_genre": None}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
@given(
    st.sets(st.sampled_from(sorted(GENRES)), min_size=2), st.data(), st.integers(2, 12), st.integers(0, 2**32)
)
def test_the_sample_is_the_reference_loops_for_any_genres_sizes_and_seed(
    genres: set[str], data: st.DataObject, per_genre: int, seed: int
) -> None:
    """Files may end before head or per_genre; the genres after them must be drawn right all the same."""
    head = per_genre + data.draw(st.integers(0, 20))
    with tempfile.TemporaryDirectory() as name:
        for genre in genres:
            records = reviews(genre, data.draw(st.integers(2, 40)))
            write_reviews(Path(name), genre, [r | {"review_text": "\u2028\x85é"} for r in records])
        ordered = parse_genres(",".join(genres))
        parameters = Parameters(name, ordered, head, per_genre, per_genre - 1, seed, allow_fewer=True)
        splits = sample_split(parameters)[1:]
        expected = reference_sample(Path(name), genres, head, per_genre, seed)
    for genre, records in expected.items():
        drawn = [row["review_id"] for rows in splits for row in rows if row["genre"] == genre]
        assert drawn == [record["review_id"] for record in records], genre


def drawn(n: int, size: int, seed: str) -> list[int]:
    """The indices that a reservoir draws of n lines, which name themselves."""
    kept = reservoir((b"%d" % i for i in range(n)), size, seed)
    assert all(line == b"%d" % index for index, line in kept)
    return [index for index, _ in kept]


def test_a_reservoir_draws_what_every_earlier_version_drew() -> None:
    assert drawn(1000, 10, "42/poetry") == [891, 245, 242, 497, 881, 523, 879, 788, 202, 615]
    assert [sorted(drawn(n, 10, "x")) for n in (0, 3, 10)] == [list(range(n)) for n in (0, 3, 10)]


def test_a_reservoir_draws_each_line_equally_often_in_each_place() -> None:
    lines, places = Counter[int](), Counter[int]()
    for seed in range(4000):
        indices = drawn(50, 10, str(seed))
        lines.update(indices)
        places[indices.index(min(indices))] += 1  # the place says nothing about when a line came
    assert chisquare([lines[n] for n in range(50)]).pvalue > 1e-4
    assert chisquare([places[n] for n in range(10)]).pvalue > 1e-4


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"seed": -1}, "out of range: .*-1"),
        ({"head": 10**30}, "out of range"),
        ({"max_bad_lines": 1.5}, "out of range"),
        ({"per_genre": 10**9, "head": None}, "--per-genre 1000000000 is more than"),
        ({"train_per_genre": 1_000}, "--train-per-genre 1000 leaves 1000 no test reviews"),
        ({"per_genre": 20_000}, "--per-genre 20000 is more than --head 10000"),
        ({"per_genre": None}, "--per-genre all goes without --train-per-genre"),
        ({**EVERYTHING, "seed": 7}, "--seed, .* go without --per-genre all"),
        ({"source": "https://me:secret@example.org/x"}, "--source holds a user name"),
        ({"source": "https://secret@[::1/x"}, "--source holds a user name"),
    ],
)
def test_parameters_out_of_range_or_at_odds_are_refused(changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError, match=fragment) as error:
        Parameters(**changes)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "parameters",
    [
        Parameters(),
        Parameters("a b/'ü", ("poetry", "romance"), 50, 20, 10, 7, drop_duplicates=True, max_bad_lines=3),
        Parameters(head=None, allow_fewer=True),
        Parameters(**EVERYTHING, genres=("poetry", "romance"), test_split="x"),
    ],
)
def test_parameters_survive_the_manifest_and_the_command_line(
    parameters: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Parameters.from_json(json.loads(json.dumps(parameters.as_json())), "x") == parameters
    monkeypatch.setattr(sys, "argv", shlex.split(parameters.command(Path("my data")))[1:])
    options = vars(data_loader.parse_options())
    assert options["output_dir"] == Path("my data")
    asked = {name: options[name] for name in parameters.as_json() if name != "test_split"}
    assert Parameters(**asked, test_split=parameters.test_split) == parameters
