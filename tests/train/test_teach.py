"""Is what a teacher has behind its pooling taken over as it is, or refused?"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from unimir.train.teach import _after_pooling

TANH = "torch.nn.modules.activation.Tanh"


def teacher(directory: Path, kinds: list[str], **changes: Any) -> str:
    """A directory in sentence-transformers' form, but for its tower."""
    types = [f"sentence_transformers.models.{kind}" for kind in kinds]
    modules = [{"path": f"{at}_{kind}", "type": types[at]} for at, kind in enumerate(kinds)]
    (directory / "modules.json").write_text(json.dumps(modules))
    dense = directory / f"{kinds.index('Dense')}_Dense" if "Dense" in kinds else directory
    dense.mkdir(exist_ok=True)
    config = {"in_features": 3, "out_features": 2, "bias": True, "activation_function": TANH, **changes}
    (dense / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file({"linear.weight": torch.randn(2, 3), "linear.bias": torch.randn(2)}, dense / "model.safetensors")
    return str(directory)


@pytest.mark.parametrize("saved", ["model.safetensors", "pytorch_model.bin"])
def test_layers_follow_in_their_order(saved: str, tmp_path: Path) -> None:
    name = teacher(tmp_path, ["Transformer", "Pooling", "Normalize", "Dense"])
    torch.manual_seed(0)
    weight, bias, z = torch.randn(2, 3), torch.randn(2), torch.randn(4, 3)
    if saved != "model.safetensors":  # as older models have them
        (tmp_path / "3_Dense" / "model.safetensors").unlink()
        torch.save({"linear.weight": weight, "linear.bias": bias}, tmp_path / "3_Dense" / saved)
    found = z
    for layer in _after_pooling(name):
        found = layer(found)
    torch.testing.assert_close(found, torch.tanh(normalize(z, dim=-1) @ weight.T + bias))


def test_a_plain_directory_has_none(tmp_path: Path) -> None:
    assert _after_pooling(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("kinds", "changes", "message"),
    [
        (["Transformer", "Pooling", "LSTM"], {}, "has a module LSTM; "),
        (["Pooling", "Dense"], {"activation_function": "torch.nn.Softmax"}, "activation Softmax of 1_Dense; one of Id"),
        (["Pooling", "Dense"], {"in_features": 5}, "the weights of 1_Dense cannot be loaded .*size mismatch"),
    ],
)
def test_what_is_not_known_is_refused(kinds: list[str], changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        _after_pooling(teacher(tmp_path, kinds, **changes))
