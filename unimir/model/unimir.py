"""UniMIR: two towers, NLU heads and query fusion in one module. Knows no file, no batch origin and no loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from unimir.config import ModelConfig
from unimir.model.image_encoder import ImageEncoder
from unimir.model.nlu import NluHeads, QueryFusion
from unimir.model.text_encoder import TextEncoder, TextStates
from unimir.model.tokens import TokenBatch
from unimir.schema import LabelSet


@dataclass(frozen=True)
class Understanding:
    """What parsing and fusion need of the same pass: token states [T, H], and logits over all label sets."""

    states_TH: Tensor
    intent_BI: Tensor
    tag_TG: Tensor


@dataclass(frozen=True)
class TextFeatures:
    """One forward pass over texts: unit vectors [B, D] and, if asked for, what was understood."""

    z_BD: Tensor
    understood: Understanding | None = None


class UniMIR(nn.Module):
    """One text encoder for image retrieval, text retrieval and understanding, beside an image encoder."""

    def __init__(self, config: ModelConfig, label_sets: Sequence[LabelSet], *, vocab_size: int, pad_id: int) -> None:
        super().__init__()
        names = [label_set.name for label_set in label_sets]
        if config.query_label_set not in names:
            raise ValueError(f"model.query_label_set {config.query_label_set!r} is not among the label sets {names}")
        query_labels = label_sets[names.index(config.query_label_set)].slots
        if config.content_slots and not set(config.content_slots) & set(query_labels):
            raise ValueError(
                f"model.content_slots {list(config.content_slots)}: label set {config.query_label_set!r} has "
                f"{', '.join(query_labels) or 'no slots'}; name those that say what is asked for, or []"
            )
        self.config = config
        self.text = TextEncoder(config.text, vocab_size=vocab_size, pad_id=pad_id, dim=config.dim)
        self.image = ImageEncoder(config.image, dim=config.dim)
        self.nlu = NluHeads(label_sets, hidden_size=self.text.hidden_size)
        self.fusion = QueryFusion(
            self.nlu,
            label_sets,
            query_set=names.index(config.query_label_set),
            content_slots=config.content_slots,
            dim=config.dim,
        )

    def encode_text(self, tokens: TokenBatch, *, understand: bool = False, cached: bool = False) -> TextFeatures:
        """Text vectors and, with `understand`, intent and slot logits from the same pass. `cached` as in the tower."""
        text: TextStates = self.text(tokens, states=understand, cached=cached)
        if text.states_TH is None:
            return TextFeatures(text.z_BD)
        intent_BI, tag_TG = self.nlu(text.pooled_BH, text.states_TH, tokens.rows_T)
        return TextFeatures(text.z_BD, Understanding(text.states_TH, intent_BI, tag_TG))

    def encode_image(self, pixels_BHWC: Tensor, *, cached: bool = False) -> Tensor:
        """Unit vectors [B, D] of uint8 pictures [B, height, width, 3]. `cached` as in the tower."""
        return nn.functional.normalize(self.image(pixels_BHWC, cached=cached), dim=-1)

    def fuse(self, features: TextFeatures, tokens: TokenBatch) -> Tensor:
        """Query vectors [B, D]: text vectors with noise suppressed by what was understood."""
        understood = features.understood
        assert understood is not None
        fused_BD: Tensor = self.fusion(
            features.z_BD, understood.states_TH, tokens.rows_T, understood.intent_BI, understood.tag_TG
        )
        return fused_BD

    def checkpoint_activations(self) -> None:
        """Both backbones compute their layers' activations again for the gradient instead of keeping them."""
        self.text.backbone.activation_checkpointing_enable({"use_reentrant": False})
        self.image.backbone.set_grad_checkpointing(True)

    def agree_on_passes(self, most: Callable[[int], int]) -> None:
        """Both towers run a batch in as many passes as `most` answers to the number they need.

        Where every pass is a step together with other workers, as in ZeRO 3, all have to make equally many. What is
        encoded beyond the need goes into no vector, and gets a gradient of zero.
        """
        self.text.passes = self.image.passes = most

    def compile_backbones(self, backend: str = "inductor") -> None:
        """Both backbones' blocks run as compiled by torch, in place: names of weights stay."""
        for backbone in (self.text.backbone, self.image.backbone):
            for block in _blocks(backbone):
                block.compile(dynamic=True, backend=backend)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The parts that a stage of training can give a learning rate of their own."""
        yield "text", nn.ModuleList(module for name, module in self.text.named_children() if name != "ngrams")
        if self.text.ngrams is not None:
            yield "ngrams", self.text.ngrams
        for name in ("image", "nlu", "fusion"):
            yield name, self.get_submodule(name)


def _blocks(backbone: nn.Module) -> list[nn.Module]:
    """Modules of one class that stand in a row, such as a transformer's layers, which share what is compiled.

    Of rows within rows the innermost; the backbone itself if there are none.
    """
    rows = [
        module
        for module in backbone.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1 and len(set(map(type, module))) == 1
    ]
    inner = [row for row in rows if not any(other in rows for other in list(row.modules())[1:])]
    return [block for row in inner for block in row] or [backbone]
