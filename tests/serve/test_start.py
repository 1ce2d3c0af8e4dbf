"""Does the service refuse to start, with one line that says why, where it would answer wrongly?"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from serve.conftest import TENANT

from unimir.data.passes import Actors
from unimir.data.sources import catalog_of
from unimir.index.embed import Embedding, embed
from unimir.index.lite import embedded
from unimir.index.store import Store
from unimir.serve.served import find_served
from unimir.serve.settings import Settings


def build(args: dict[str, Any]) -> None:
    """What `serve run` calls first."""
    with warnings.catch_warnings():  # Ray Serve's own use of pydantic warns
        warnings.simplefilter("ignore")
        from unimir.serve.app import build as build_application
    build_application(args)


def truncated(bundle: Path) -> None:
    weights = (bundle / "model.safetensors").read_bytes()
    (bundle / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def other_size(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["model"]["dim"] *= 2
    (bundle / "config.json").write_text(json.dumps(config))


def other_tokenizer(bundle: Path) -> None:
    text = (bundle / "tokenizer.json").read_text()
    (bundle / "tokenizer.json").write_text(text.replace('"type": "NFC"', '"type": "NFKC"') + " ")


def other_weights(bundle: Path) -> None:
    weights = load_file(bundle / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + np.float32(0.1)}, bundle / "model.safetensors")


def without_weights(bundle: Path) -> None:
    (bundle / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [truncated, other_size, other_tokenizer, other_weights, without_weights])
def test_a_damaged_bundle_is_refused(
    damage: Callable[[Path], None], collection: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / tiny_bundle.name
    shutil.copytree(tiny_bundle, copy)
    damage(copy)
    with embedded(collection / "milvus") as uri, pytest.raises(ValueError, match="damaged bundle|lacks") as refused:
        build({"bundle": str(tmp_path), "milvus": uri})
    assert len(str(refused.value).splitlines()) == 1


def test_a_bundle_that_did_not_make_the_collection_is_refused(
    collection: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    with embedded(collection / "milvus") as uri:
        store = Store(uri)
        made_by = store.target("catalog")
        assert made_by is not None
        with pytest.raises(ValueError, match=rf"{made_by.rpartition('_')[2]}; at {tmp_path}: none"):
            build({"bundle": str(tmp_path), "milvus": uri})
        with pytest.raises(ValueError, match="no collection 'nothing'"):
            build({"bundle": str(tiny_bundle), "milvus": uri, "collection": "nothing"})
        served = find_served(Settings(bundle=str(tiny_bundle.parent), milvus=uri))
        assert (served.bundle.name, served.collection) == (tiny_bundle.name, made_by)
        store.close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bundel": "x"}, "unknown key 'bundel'"),
        ({"limits": {"hits": 0}}, "limits.hits is 0"),
        ({"backend": "tensorrt"}, "backend 'tensorrt'"),
        ({"timezone": "Mars/Base"}, "timezone 'Mars/Base'"),
        ({"slots": {"time": {"field": "place", "type": "time"}}}, "field 'place' holds text"),
        ({"slots": {"time": {"field": "nothing", "type": "time"}}}, "field 'nothing' holds nothing"),
        ({"modality_of_intent": {"find": "video"}}, "modality_of_intent.find: 'video'"),
        ({"keys": "nowhere"}, "nowhere"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(changed)


def test_a_service_does_not_follow_an_alias_to_another_bundle(
    ray_cluster: None, collection: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """What it was started with is what it searches; see also serve_faults.py, which moves the alias under load."""
    catalog = catalog_of("sample", tmp_path, root=None, items=5, seed=0)
    with embedded(collection / "milvus") as uri:
        job = Embedding(catalog=catalog, bundle=tiny_bundle, uri=uri, out=tmp_path, name="moving", tenant=TENANT)
        embed(job, Actors(least=1, most=1))
        store = Store(uri)
        settings = Settings(bundle=str(tiny_bundle), milvus=uri, collection="moving")
        served = find_served(settings)
        foreign = f"moving_0002_{'0' * 16}"
        store.create(foreign, 8)
        store.point("moving", foreign)
        with pytest.raises(ValueError, match=f"{foreign} holds vectors of bundle {'0' * 16}; at .*{served.bundle_id}"):
            find_served(settings)
        store.unpoint("moving")
        store.unpoint(f"{served.collection}_whole")
        store.drop(foreign)
        store.drop(served.collection)
        store.close()
