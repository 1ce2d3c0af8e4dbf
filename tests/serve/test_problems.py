"""Is each kind of error told for what it is?"""

import pytest
from pydantic import BaseModel, ValidationError

from unimir.serve.problems import problem_of


class Whole(BaseModel):
    number: int


def test_an_answer_that_goes_wrong_is_ours_not_the_callers() -> None:
    assert problem_of(ValueError("limit is 0"), "a").status == 422
    with pytest.raises(ValidationError) as wrong:
        Whole.model_validate({"number": "x"})
    assert problem_of(wrong.value, "a").code == "internal"
