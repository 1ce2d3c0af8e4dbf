"""Are a query's words noted for the log when the setting asks for them, and only then?"""

import pytest
from starlette.requests import Request

from unimir.serve.api import _note
from unimir.serve.gateway import Answer
from unimir.serve.wire import SearchIn


@pytest.mark.parametrize("asked", [True, False])
def test_words_are_noted_only_when_asked_for(asked: bool) -> None:
    request = Request({"type": "http", "state": {}})
    _note(request, SearchIn(query="words of its own"), Answer(), asked)
    assert request.state.log.get("query") == ("words of its own" if asked else None)
    assert request.state.log["hits"] == 0
