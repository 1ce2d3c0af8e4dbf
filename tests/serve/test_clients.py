"""Do clients not written for unimir get what they expect: OpenAI's, and one that sends what the schema allows?"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from serve.conftest import KEYS, TENANT, Ask

from unimir.infer import Encoder

TEXTS = ["a cat", "ein Hund am Strand", "请帮我找一下上个月的照片"]


def test_openais_client_gets_the_encoders_vectors(service: str, tiny_bundle: Path) -> None:
    from openai import OpenAI

    encoder = Encoder.from_bundle(tiny_bundle)
    client = OpenAI(base_url=f"{service}/v1", api_key=KEYS[TENANT], max_retries=0)
    prefix = encoder.bundle.model.config.prefixes[0]
    for form in ("float", "base64"):
        for dimensions in (None, prefix):
            extra = {} if dimensions is None else {"dimensions": dimensions}
            found = client.embeddings.create(input=TEXTS, model="unimir", encoding_format=form, **extra)
            coded = [one.embedding for one in found.data]
            if form == "base64":
                import base64

                coded = [np.frombuffer(base64.b64decode(one), "<f4") for one in coded]  # type: ignore[arg-type]
            assert np.abs(np.array(coded) - encoder.embed_texts(TEXTS, dimensions=dimensions)).max() < 1e-5
            assert found.model == encoder.id
    default = client.embeddings.create(input="a cat", model="unimir")
    assert np.abs(np.array(default.data[0].embedding) - encoder.embed_texts(["a cat"])[0]).max() < 1e-5


def test_the_examples_of_the_api_work(ask: Ask) -> None:
    _, _, schema = ask("GET", "/openapi.json")
    tried = 0
    for path, methods in schema["paths"].items():
        for method, described in methods.items():
            media = described.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in media.get("examples", {}).values():
                status, _, answer = ask(method.upper(), path, example["value"])
                assert status in (200, 202), (path, example["value"], answer)
                tried += 1
    assert tried >= 8


@pytest.mark.parametrize("path", ["/v1/search", "/v1/parse", "/v1/embeddings", "/v1/items", "/v1/feedback", "/v1/info"])
def test_nothing_that_the_schema_allows_or_forbids_is_a_500(service: str, ask: Ask, path: str) -> None:
    import schemathesis
    from schemathesis.config import SchemathesisConfig

    _, _, described = ask("GET", "/openapi.json")
    schema = schemathesis.openapi.from_dict(described, config=SchemathesisConfig())
    for operation in [found.ok() for found in schema.get_all_operations()]:
        if operation.path != path:
            continue

        @_given(operation)
        def sends(case: Any) -> None:
            answer = case.call(base_url=service, headers={"authorization": f"Bearer {KEYS[TENANT]}"}, timeout=30)
            assert answer.status_code < 500, (answer.status_code, answer.text)
            assert answer.status_code < 400 or json.loads(answer.text)["code"]

        sends()
    # What is sent may be the schema's own example, an item like those that other tests count.
    assert ask("DELETE", "/v1/items", {"ids": ["example-1"]})[0] == 200


def _given(operation: Any) -> Any:
    from hypothesis import given

    def wrap(test: Any) -> Any:
        quick = settings(
            max_examples=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            database=None,
        )
        return quick(given(case=operation.as_strategy())(test))

    return wrap
