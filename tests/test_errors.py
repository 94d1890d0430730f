"""The messages for a column that is missing, and for a value that is no choice."""

import pytest

from polygene.errors import DataError, check_choice, missing_column


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["donor_id", "sex"],
            "cells.h5ad has no column 'donor' in obs, which should hold donors. Did you mean 'donor_id'?",
        ),
        (["sex", "age"], "cells.h5ad has no column 'donor' in obs, which should hold donors. It has sex, age."),
        ([], "cells.h5ad has no column 'donor' in obs, which should hold donors. It has no columns."),
        (range(12), "It has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …."),
    ],
)
def test_a_missing_column_is_named_with_the_nearest_or_the_first_ten(columns: list[object], message: str) -> None:
    error = missing_column("donor", columns, of="cells.h5ad", holds="donors", do="Pass donor=<column>.")
    assert message in str(error)
    assert str(error).endswith("Pass donor=<column>.")


@pytest.mark.parametrize("value", ["Genes", 3, ["genes"]])
def test_a_value_that_is_no_choice_is_named_with_the_choices(value: object) -> None:
    check_choice("null", None, (None, "genes"))
    with pytest.raises(DataError) as raised:
        check_choice("null", value, (None, "genes"))
    assert str(raised.value) == f"null is one of None, genes; got {value!r}."
