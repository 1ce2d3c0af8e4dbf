"""Encoder: strings or images in, vectors and parses out. The one path for embedding, evaluation and serving.

Knows no job, no index and no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from unimir.bio import allowed_steps, best_path, spans_from_tags
from unimir.bundle import Bundle, load_bundle
from unimir.config import BACKENDS, PrepareConfig
from unimir.data.clean import normalise
from unimir.data.image import decode_image, upright
from unimir.model.tokens import TokenBatch, token_chunks
from unimir.model.unimir import UniMIR
from unimir.onnx_text import open_exported
from unimir.schema import Parse, Slot, Understood

Offsets = list[tuple[int, int]]
Probabilities = NDArray[np.float32]
CPU_TOKENS, GPU_TOKENS = 1024, 32_768
"""Padded tokens of one forward pass: on a CPU more fall out of its cache, on a GPU fewer leave it idle."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as the model takes it: normalised, cut into tokens once."""

    text: str
    ids: list[int]
    offsets: Offsets


class TextSide(Protocol):
    """What runs the text tower, heads and fusion over a chunk of texts of similar length, given as token ids."""

    def vectors(self, ids: Sequence[Sequence[int]], *, fused: bool) -> NDArray[np.float32]:
        """Unit vectors [B, D], fused or plain."""

    def understand(self, ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.float32], ...]:
        """Plain and fused vectors [B, D], intent logits [B, I] and tag logits [T, G] from one forward pass."""


class TorchText:
    """The text side in PyTorch, on the model's device."""

    def __init__(self, model: UniMIR) -> None:
        self._model = model
        self._device = next(model.parameters()).device

    def vectors(self, ids: Sequence[Sequence[int]], *, fused: bool) -> NDArray[np.float32]:
        """As in TextSide."""
        with torch.inference_mode():
            tokens = self._tokens(ids)
            features = self._model.encode_text(tokens, understand=fused)
            return _array(self._model.fuse(features, tokens) if fused else features.z_BD)

    def understand(self, ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.float32], ...]:
        """As in TextSide."""
        with torch.inference_mode():
            tokens = self._tokens(ids)
            features = self._model.encode_text(tokens, understand=True)
            assert features.understood is not None
            fused_BD = self._model.fuse(features, tokens)
            heads = features.understood
            return _array(features.z_BD), _array(fused_BD), _array(heads.intent_BI), _array(heads.tag_TG)

    def _tokens(self, ids: Sequence[Sequence[int]]) -> TokenBatch:
        return TokenBatch.from_lists([list(row) for row in ids]).to(self._device)


class Encoder:
    """Embeds texts and images and parses queries with one bundle. Not thread-safe; make one per worker."""

    def __init__(self, bundle: Bundle, *, text: TextSide | None = None, image_batch: int = 64) -> None:
        self.bundle = bundle
        self.id = bundle.id
        self.dim = bundle.model.config.dim
        self._model = bundle.model
        self._device = next(bundle.model.parameters()).device
        self.token_budget = CPU_TOKENS if self._device.type == "cpu" else GPU_TOKENS  # of one forward pass
        bundle.model.text.token_budget = self.token_budget
        self._text = text or TorchText(bundle.model)
        self._sets = {label_set.name: number for number, label_set in enumerate(bundle.label_sets)}
        self._steps = [allowed_steps(label_set.tags) for label_set in bundle.label_sets]
        self._image_batch = image_batch
        self._limits = PrepareConfig()

    @classmethod
    def from_bundle(cls, path: Path | str, *, device: str = "cpu", backend: str = "torch") -> Encoder:
        """Loads a bundle directory, checking its golden vectors. ValueError if it is damaged.

        `backend` onnx-fp32 or onnx-int8 exports the text side beside the bundle the first time.
        """
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r}; one of {', '.join(BACKENDS)}")
        if backend != "torch" and device != "cpu":
            raise ValueError(f"backend {backend!r} runs on a CPU; device is {device!r}")
        bundle = load_bundle(Path(path), device=device)
        if backend == "torch":
            return cls(bundle)
        return cls(bundle, text=open_exported(Path(path), bundle, backend.removeprefix("onnx-")))

    @property
    def label_sets(self) -> list[str]:
        """Names that `parse` takes as `label_set`."""
        return list(self._sets)

    def embed_texts(
        self, texts: Sequence[str], *, as_query: bool = False, dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """Unit vectors [len(texts), dimensions]; with `as_query` fused, so that noise in spoken queries is suppressed.

        `dimensions` takes a Matryoshka prefix of the bundle's `dim` and normalises it again.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        ids = self.bundle.tokenizer.encode(_clean(texts))
        for rows in token_chunks([len(row) for row in ids], self.token_budget):
            vectors[rows] = self._text.vectors([ids[row] for row in rows], fused=as_query)
        return self.prefix(vectors, dimensions)

    def embed_images(
        self, images: Sequence[Image.Image | bytes], *, dimensions: int | None = None
    ) -> NDArray[np.float32]:
        """Unit vectors [len(images), dimensions] of pictures or encoded picture bytes. ValueError names a bad one."""
        vectors = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), self._image_batch):
            batch = images[start : start + self._image_batch]
            pixels = np.stack([self._pixels(image, start + row) for row, image in enumerate(batch)])
            vectors[start : start + len(batch)] = self.embed_pixels(pixels)
        return self.prefix(vectors, dimensions)

    def pixels(self, image: Image.Image | bytes) -> NDArray[np.uint8]:
        """[size, size, 3]: a picture as the image tower takes it. ValueError says why it cannot be."""
        if isinstance(image, bytes):
            image = decode_image(image, self._limits, target=self.bundle.preprocess.size)
        elif isinstance(image, Image.Image):
            try:
                image = upright(image)
            except Exception as error:  # of a file that is read only now, whatever is wrong with it
                raise ValueError("unreadable image") from error
        else:
            raise ValueError(f"{image!r:.80}; expected the bytes of a picture, or a Pillow image")
        return self.bundle.preprocess.pixels(image)

    def embed_pixels(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors [N, dim] of what `pixels` made, stacked."""
        vectors = np.empty((len(pixels_NHWC), self.dim), np.float32)
        for start in range(0, len(pixels_NHWC), self._image_batch):
            batch = pixels_NHWC[start : start + self._image_batch]
            with torch.inference_mode():
                z_BD = self._model.encode_image(torch.from_numpy(batch).to(self._device))
            vectors[start : start + len(batch)] = z_BD.float().cpu().numpy()
        return vectors

    def parse(self, texts: Sequence[str], *, label_set: str | None = None) -> list[Parse]:
        """Intent and slots of each text among the labels of one set (default: the set of search queries)."""
        return self.encode_queries(texts, label_set=label_set)[1]

    def encode_queries(
        self, texts: Sequence[str], *, label_set: str | None = None
    ) -> tuple[NDArray[np.float32], list[Parse]]:
        """Fused query vectors [len(texts), dim] and parses from one forward pass per text."""
        found = self.understand(self.tokenize(texts), label_set=label_set)
        vectors = np.stack([one.fused_D for one in found]) if found else np.empty((0, self.dim), np.float32)
        return vectors, [one.parse for one in found]

    def tokenize(self, texts: Sequence[str]) -> list[Encoded]:
        """What `understand` takes. ValueError where nothing is left of a text, or it is not valid Unicode."""
        clean = _clean(texts)
        cut = self.bundle.tokenizer.encode_with_offsets(clean)
        return [Encoded(text, ids, offsets) for text, (ids, offsets) in zip(clean, cut, strict=True)]

    def understand(self, encoded: Sequence[Encoded], *, label_set: str | None = None) -> list[Understood]:
        """Vectors and parses among the labels of one set (default: the set of search queries)."""
        name = label_set or self._model.config.query_label_set
        if name not in self._sets:
            raise ValueError(f"label_set {name!r}; this bundle has {', '.join(self._sets)}")
        found: dict[int, Understood] = {}
        heads, number = self._model.nlu, self._sets[name]
        intents, tags = slice(*heads.intent_ranges[number]), slice(*heads.tag_ranges[number])
        for rows in token_chunks([len(one.ids) for one in encoded], self.token_budget):
            plain_BD, fused_BD, intent_BI, tag_TG = self._text.understand([encoded[row].ids for row in rows])
            intent_BI, tag_TG = _softmax(intent_BI[:, intents]), _softmax(tag_TG[:, tags])
            start = 0
            for at, row in enumerate(rows):
                stop = start + len(encoded[row].ids)
                parse = self._decode(encoded[row], name, intent_BI[at], tag_TG[start:stop])
                found[row] = Understood(fused_BD[at], plain_BD[at], parse)
                start = stop
        return [found[row] for row in range(len(encoded))]

    def _decode(self, encoded: Encoded, name: str, intent_I: Probabilities, tag_TG: Probabilities) -> Parse:
        text, offsets = encoded.text, encoded.offsets
        label_set = self.bundle.label_sets[self._sets[name]]
        # Special tokens and lone spaces cover no characters and carry no tag.
        visible = [place for place, (start, stop) in enumerate(offsets) if stop > start]
        scores_VG = tag_TG[visible]
        path = best_path(np.log(scores_VG + 1e-9), self._steps[self._sets[name]]) if visible else []
        spans = [offsets[place] for place in visible]
        scores = scores_VG[np.arange(len(path)), path].tolist()
        slots, tags = [], label_set.tags
        for start, stop, label in spans_from_tags([tags[tag] for tag in path], spans):
            inside = [score for score, (a, b) in zip(scores, spans, strict=True) if a < stop and b > start]
            slots.append(Slot(start=start, end=stop, label=label, text=text[start:stop], score=min(inside)))
        best = int(intent_I.argmax())
        return Parse(
            text=text,
            label_set=name,
            intent=label_set.intents[best],
            intent_score=float(intent_I[best]),
            slots=tuple(slots),
        )

    def _pixels(self, image: Image.Image | bytes, row: int) -> NDArray[np.uint8]:
        try:
            return self.pixels(image)
        except ValueError as error:
            raise ValueError(f"image {row}: {error}") from error

    def prefix(self, vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
        """The vectors' first `dimensions`, of unit length again; None takes all. ValueError if they are not trained."""
        if dimensions is None or dimensions == self.dim:
            return vectors
        allowed = (*self._model.config.prefixes, self.dim)
        if dimensions not in allowed:
            raise ValueError(f"dimensions {dimensions}; this bundle allows {', '.join(map(str, sorted(allowed)))}")
        prefix = vectors[:, :dimensions]
        unit: NDArray[np.float32] = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
        return unit


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.float().cpu().numpy()
    return found


def _softmax(logits: NDArray[np.float32]) -> Probabilities:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Probabilities = powers / powers.sum(-1, keepdims=True)
    return shares


def _clean(texts: Sequence[str]) -> list[str]:
    """The texts as training saw texts; ValueError where nothing is left of one, or it is not valid Unicode."""
    if isinstance(texts, str):
        raise ValueError(f"{texts!r:.60} is one text; expected a list of texts")
    try:
        clean: list[str] = normalise(pa.array(texts, pa.string())).to_pylist()
    except UnicodeEncodeError as error:
        raise ValueError(f"a text is not valid Unicode ({error.reason})") from error
    for row, text in enumerate(clean):
        if not text:
            raise ValueError(f"text {row}: {texts[row]!r:.60} is empty once normalised")
    return clean
