"""Configuration: frozen dataclasses that validate themselves; unknown keys are errors.

Holds no tuned number of any run (those are in recipes) and knows no library but the standard one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from unimir.schema import KINDS, SPLITS, Kind, Split

PARTS = ("text", "ngrams", "image", "nlu", "fusion", "proxies", "scale")
"""Parts that a stage gives a learning rate of their own. Of `ngrams` it is how far rows step, of all others AdamW's;
`scale` are the temperatures, which by default move with the fastest of AdamW's parts."""
LOSSES = ("contrastive", "fused", "proxy", "intent", "slots", "anchor", "distill")
"""Text against counterpart; fused query against counterpart; both against a learned vector per group; intent; slots;
distance to the vectors at stage start; distance to a teacher's vectors."""
BACKENDS = ("torch", "onnx-fp32", "onnx-int8")
"""What can run the text side of a bundle: PyTorch anywhere, ONNX Runtime on a CPU."""

TRACKERS = ("wandb", "mlflow")
"""What a training run may tell its numbers to, beside TensorBoard, which is always there."""


def check_trackers(names: Sequence[str]) -> None:
    """ValueError for an unknown tracker, or one that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"tracker {name!r}; trackers are {', '.join(TRACKERS)}, beside TensorBoard")
        if find_spec(name) is None:
            raise ValueError(f"tracker {name!r} is not installed (pip install {name})")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """A pretrained tokenizer by path, or (path None) a byte-fallback BPE trained on the corpus."""

    path: str | None = None
    vocab_size: int = 8000
    train_texts: int = 200_000

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 512, f"tokenizer.vocab_size is {self.vocab_size}; at least 512 (256 are bytes)")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Limits and rules a row must meet to be kept."""

    max_chars: int = 20_000
    max_tokens: int = 64
    max_image_bytes: int = 20_000_000
    max_image_pixels: int = 20_000_000
    max_image_aspect: float = 20.0
    image_size: int = 64
    language_check: Literal["script", "off"] = "script"
    unit_rows: int = 10_000

    def __post_init__(self) -> None:
        for name in ("max_chars", "max_tokens", "max_image_bytes", "max_image_pixels", "image_size", "unit_rows"):
            _require(getattr(self, name) > 0, f"prepare.{name} is {getattr(self, name)}; must be positive")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Text tower: `backbone` is a Hugging Face name or path; without one, `arch` is its configuration from scratch."""

    backbone: str | None = None
    arch: Mapping[str, Any] = field(default_factory=dict)
    pooling: Literal["mean", "cls"] | None = None  # None: what the backbone's own directory says, else mean
    max_tokens: int = 64
    ngrams: int = 0  # longest n-gram of tokens with a hashed vector of its own, beside the backbone; 0: none
    ngram_buckets: int = 65_536
    ngram_min_count: int = 1  # n-grams that training texts have less often have no vector; see NgramEmbedding
    token_budget: int = 4096  # padded tokens per forward chunk of the length-sorted batch

    def __post_init__(self) -> None:
        _require(self.ngrams >= 0, f"model.text.ngrams is {self.ngrams}; at least 0")
        for name in ("max_tokens", "ngram_buckets", "ngram_min_count", "token_budget"):
            _require(getattr(self, name) > 0, f"model.text.{name} is {getattr(self, name)}; must be positive")
        _require(
            self.ngrams > 0 or self.ngram_min_count == 1,
            f"model.text.ngram_min_count is {self.ngram_min_count}; it is of n-grams, and model.text.ngrams is 0",
        )


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Image tower: a timm model by name, with keyword arguments for its constructor."""

    name: str = "resnet18"
    args: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    size: int = 64
    min_crop: float = 1.0  # smallest area share of the random training crop; 1.0 switches augmentation off


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Two towers, NLU heads and query fusion over one shared space of `dim` dimensions."""

    dim: int = 128
    prefixes: tuple[int, ...] = ()  # Matryoshka: leading sub-vectors usable alone
    query_label_set: str = "search"  # the label set whose soft labels feed the fusion
    content_slots: tuple[str, ...] = ("content",)
    text: TextConfig = field(default_factory=TextConfig)
    image: ImageConfig = field(default_factory=ImageConfig)

    def __post_init__(self) -> None:
        for prefix in self.prefixes:
            _require(0 < prefix < self.dim, f"model.prefixes has {prefix}; each must be in 1..{self.dim - 1}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of batch within a stage, chosen with probability proportional to `weight`."""

    name: str
    kind: Kind
    sources: tuple[str, ...] = ()  # empty: every source of this kind
    weight: float = 1.0
    batch_size: int = 256  # examples over all workers
    per_picture: int = 1  # about so many captions of one picture side by side, so that fewer pictures are encoded
    hide: float = 0.0  # tokens of a text replaced by <mask>: up to this share, uniformly drawn for each text
    cached: bool = False  # encode in chunks whose activations are computed again: large batches in little memory
    hard_negatives: int = 0  # mined documents (see Config.negatives) that every query is also held against
    losses: Mapping[str, float] = field(default_factory=lambda: {"contrastive": 1.0})

    def __post_init__(self) -> None:
        _require(self.kind in KINDS, f"task {self.name}: kind {self.kind!r}; one of {', '.join(KINDS)}")
        _require(self.weight > 0, f"task {self.name}: weight {self.weight}; must be positive")
        _require(self.batch_size > 1, f"task {self.name}: batch_size {self.batch_size}; at least 2")
        _require(self.per_picture > 0, f"task {self.name}: per_picture {self.per_picture}; must be positive")
        _require(0 <= self.hide < 1, f"task {self.name}: hide {self.hide}; at least 0 and below 1")
        wanted = {name for name, weight in self.losses.items() if weight}
        _require(
            self.kind != "nlu" or not wanted & {"contrastive", "fused"},
            f"task {self.name}: losses {sorted(wanted)}; kind nlu has no counterpart to be contrasted with",
        )
        _require(
            self.kind in ("nlu", "intent_query") or not wanted & {"intent", "slots"},
            f"task {self.name}: losses {sorted(wanted)}; kind {self.kind} has neither intents nor slots",
        )
        mined = self.hard_negatives
        _require(mined >= 0, f"task {self.name}: hard_negatives {mined}; at least 0")
        _require(
            not mined or self.kind == "text_text",
            f"task {self.name}: hard_negatives {mined}; kind {self.kind} has none, only text_text",
        )
        _require(bool(wanted), f"task {self.name}: no loss above 0 among {dict(self.losses)}; of {', '.join(LOSSES)}")
        unknown = set(self.losses) - set(LOSSES)
        _require(not unknown, f"task {self.name}: unknown losses {sorted(unknown)}; losses are {', '.join(LOSSES)}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of training as data: what is seen, what moves and how fast (rate 0: frozen)."""

    name: str
    steps: int
    tasks: tuple[Task, ...]
    rates: Mapping[str, float]
    warmup_steps: int = 20
    language_temperature: float = 0.5  # 1: as in the corpus; 0: every language alike

    def __post_init__(self) -> None:
        _require(self.steps > 0, f"stage {self.name}: steps {self.steps}; must be positive")
        _require(bool(self.tasks), f"stage {self.name}: no tasks")
        unknown = set(self.rates) - set(PARTS)
        _require(not unknown, f"stage {self.name}: rates for {sorted(unknown)}; parts are {', '.join(PARTS)}")
        _require(
            any(rate > 0 for part, rate in self.rates.items() if part not in ("ngrams", "scale")),
            f"stage {self.name}: every part is frozen; ngrams and scale move only beside another part",
        )
        names = [task.name for task in self.tasks]
        _require(len(set(names)) == len(names), f"stage {self.name}: task names repeat: {names}")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What DeepSpeed is told."""

    zero: Literal[0, 1, 2, 3] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    grad_clip: float = 1.0
    compile: bool = False  # torch.compile of both backbones
    activation_checkpointing: bool = False  # layers' activations computed again instead of kept

    def __post_init__(self) -> None:
        _require(
            self.precision == "fp32" or self.zero > 0,
            f"engine.zero {self.zero} with engine.precision {self.precision}; ZeRO 1, 2 or 3 keep the fp32 weights",
        )
        _require(
            not (self.compile and self.zero == 3),
            "engine.compile with engine.zero 3; ZeRO 3 fetches weights by hooks, which would cut every graph",
        )
        _require(all(0 <= beta < 1 for beta in self.betas), f"engine.betas {list(self.betas)}; from 0 to below 1")
        _require(self.weight_decay >= 0, f"engine.weight_decay {self.weight_decay}; at least 0")
        _require(self.grad_clip >= 0, f"engine.grad_clip {self.grad_clip}; at least 0, which clips nothing")


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """How much of a training run a kill costs, and how often it goes on by itself."""

    every_steps: int = 0  # checkpoints within a stage; 0: only at the ends of stages
    keep: int = 1  # checkpoints kept by the deciding loss, beside the last
    failures: int = 3  # of workers, before the run gives up

    def __post_init__(self) -> None:
        _require(self.every_steps >= 0, f"restarts.every_steps {self.every_steps}; at least 0")
        _require(self.keep > 0, f"restarts.keep {self.keep}; must be positive")
        _require(self.failures >= 0, f"restarts.failures {self.failures}; at least 0")


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A text encoder whose vectors the loss `distill` comes near: a Hugging Face name or path with its tokenizer."""

    backbone: str
    pooling: Literal["mean", "cls"] | None = None
    max_tokens: int = 128
    distance: Literal["cosine", "mse"] = "cosine"


@dataclass(frozen=True, kw_only=True)
class EvalTask:
    """One block of the report; `name` is the TASK part of its metric names."""

    name: str
    measure: Literal["text_to_image", "image_to_text", "text_to_text", "query_to_item", "nlu"]
    kind: Kind
    sources: tuple[str, ...] = ()
    pool: Literal["evaluation", "all"] = "evaluation"  # "all": train and evaluation items compete
    metrics: tuple[str, ...] = ("r@1", "r@10")
    max_queries: int = 500  # per language, the first by hash
    max_lexical_rows: int = 50_000  # training rows of the lexical NLU baseline, the first by hash

    def __post_init__(self) -> None:
        wrong = [metric for metric in self.metrics if not re.fullmatch("(r|ndcg)@[1-9][0-9]*", metric)]
        _require(not wrong, f"evaluation task {self.name!r}: metrics {wrong}; r@K (recall) or ndcg@K, such as r@10")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    recipe: str
    corpora: str = "sample"  # manifest path, or "sample": the generated corpus
    sample_items: int = 5000
    seed: int = 0
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    stages: tuple[Stage, ...] = ()
    engine: EngineConfig = field(default_factory=EngineConfig)
    restarts: Restarts = field(default_factory=Restarts)
    teacher: Teacher | None = None
    negatives: str | None = None  # an artifact of jobs/mine_negatives.py on the same prepared corpus
    evaluation: tuple[EvalTask, ...] = ()
    eval_split: Split = "evaluation"

    def __post_init__(self) -> None:
        _require(self.eval_split in SPLITS, f"eval_split {self.eval_split!r}; one of {', '.join(SPLITS)}")
        tasks = [task for stage in self.stages for task in stage.tasks]
        for task in tasks:
            _require(
                not task.losses.get("distill") or self.teacher is not None,
                f"task {task.name}: loss distill, but the config has no teacher",
            )
            _require(
                not task.hard_negatives or self.negatives is not None,
                f"task {task.name}: hard_negatives {task.hard_negatives}, but the config names no negatives",
            )
        _require(
            self.model.text.backbone is None or self.tokenizer.path is not None,
            f"model.text.backbone {self.model.text.backbone!r} without tokenizer.path; it knows its own tokens only",
        )
        _require(
            self.model.text.max_tokens >= self.prepare.max_tokens,
            f"model.text.max_tokens {self.model.text.max_tokens} is below prepare.max_tokens {self.prepare.max_tokens}",
        )
        _require(
            self.model.image.size <= self.prepare.image_size,
            f"model.image.size {self.model.image.size} is above prepare.image_size {self.prepare.image_size}: pictures "
            "would be stored smaller than the model sees them",
        )
