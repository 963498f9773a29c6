import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodreads.common.errors import InputError
from goodreads.data.genres import GENRES, match_labels, parse_genres


def test_genres_are_returned_in_sampling_order() -> None:
    assert parse_genres(" young_adult, children ,poetry,") == ("poetry", "children", "young_adult")
    assert parse_genres(",".join(GENRES))[:2] == ("poetry", "children")
    assert list(GENRES) == sorted(GENRES)


@pytest.mark.parametrize("text", ["poetry,cooking,romance", "poetry,romance,poetry", "poetry", ""])
def test_an_unusable_list_of_genres_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"--genres {text}: name at least two of children,.*, each once"):
        parse_genres(text)


@given(st.permutations(list(GENRES)), st.permutations(list(GENRES)))
def test_labels_are_matched_by_name_in_any_order(model: list[str], data: list[str]) -> None:
    columns = match_labels(model, data, "m")
    assert [model[column] for column in columns] == data
    assert match_labels(model, model, "m") == list(range(8))


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1"], ["poetry"], ["poetry", "romance", "children"]])
def test_unknown_labels_are_refused_naming_the_model(labels: list[str]) -> None:
    with pytest.raises(InputError, match=r"^my/model: .*poetry, romance"):
        match_labels(labels, ["poetry", "romance"], "my/model")
