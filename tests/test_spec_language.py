"""Language models and taggers: the same numbers as other people's classes, from the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import netc
import pytest
import torch
from netc.compiler import weights
from netc.compiler.types import substitute
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

SPECS = Path(__file__).parents[1] / "specs"
SMALL = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
LLAMA = {**SMALL, "intermediate_size": 176}
MIXTRAL = {**SMALL, "intermediate_size": 112, "num_local_experts": 8, "num_experts_per_tok": 2}
CASES = {
    "llama_micro": (LlamaForCausalLM, LlamaConfig(**LLAMA)),
    "llama_micro_tied": (LlamaForCausalLM, LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "mixtral_micro": (MixtralForCausalLM, MixtralConfig(**MIXTRAL)),
    "mixtral_micro_each": (MixtralForCausalLM, MixtralConfig(**MIXTRAL)),
}
REAL = {
    "tinyllama": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
            num_key_value_heads=4, rms_norm_eps=1e-5,
        ),
    ),
    "mixtral_8x7b": (MixtralForCausalLM, MixtralConfig(vocab_size=32_000)),
}  # fmt: skip


def program(name: str) -> netc.Program:
    return netc.load(SPECS / f"{name.partition('_')[0].removeprefix('tiny')}.net")


def stirred(net: nn.Module) -> nn.Module:
    """Random weights none of which is neutral: norms too, and large enough for attention and routing to be sharp."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.rand_like(p) + 0.5 if p.ndim == 1 else torch.randn_like(p) * 0.2)
    return net.eval()


def loaded(program: netc.Program, name: str, tensors: Mapping[str, torch.Tensor], folder: Path) -> nn.Module:
    """The model with these weights, through a file and the spec's rename map."""
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "weights.safetensors")
    checkpoint = weights.open_checkpoint(folder / "weights.safetensors")
    graph, report = weights.load(program.model(name).graph, checkpoint, rename=program.scope.names.get("transformers"))
    assert set(report.loaded) == set(graph.parameters)
    return netc.Model(name, graph).torch()


def multiply_accumulates(net: nn.Module, *args: torch.Tensor, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net(*args, **kwargs)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def macs(model: netc.Model, **sizes: int) -> int:
    return int(str(substitute(model.cost().macs, sizes)))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    make, config = CASES[name]
    theirs = stirred(make(config))
    tensors = theirs.state_dict()
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]  # as `save_pretrained` does
    ours = loaded(program(name), name, tensors, tmp_path)
    tokens = torch.randint(0, 256, (3, 19))
    with torch.no_grad():
        found, wanted = ours(tokens), theirs(tokens, use_cache=False).logits
    assert wanted.std() > 0.5
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_a_tie_is_one_parameter_and_gathers_both_gradients(tmp_path: Path) -> None:
    make, config = CASES["llama_micro_tied"]
    theirs = stirred(make(config))
    tensors = {k: v for k, v in theirs.state_dict().items() if k != "lm_head.weight"}
    ours = loaded(program("llama"), "llama_micro_tied", tensors, tmp_path)
    tokens = torch.randint(0, 256, (2, 7))
    ours(tokens).square().mean().backward()
    theirs(tokens, use_cache=False).logits.square().mean().backward()
    found = dict(ours.named_parameters())["embed_tokens.weight"].grad
    wanted = theirs.get_parameter("model.embed_tokens.weight").grad
    assert found is not None
    assert wanted is not None
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_both_ways_to_route_are_one_function(tmp_path: Path) -> None:
    make, config = CASES["mixtral_micro"]
    tensors = stirred(make(config)).state_dict()
    spec = program("mixtral")
    every, each = (loaded(spec, n, tensors, tmp_path) for n in ("mixtral_micro", "mixtral_micro_each"))
    tokens = torch.randint(0, 256, (2, 33))
    with torch.no_grad():
        found, wanted = each(tokens), every(tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", [n for n in CASES if n != "mixtral_micro"])
def test_small_counts_are_those_of_transformers(name: str) -> None:
    make, config = CASES[name]
    theirs = make(config).eval()
    if make is MixtralForCausalLM:
        theirs.set_experts_implementation("eager")  # FlopCounterMode does not see into the fused one
    model = program(name).model(name)
    assert model.cost().parameters == sum(p.numel() for p in theirs.parameters())
    tokens = torch.randint(0, 256, (2, 12))
    assert macs(model, N=2, T=12) == multiply_accumulates(theirs, tokens, use_cache=False)


@pytest.mark.parametrize("name", REAL)
def test_real_counts_are_those_of_transformers(name: str) -> None:
    """Without memory for the weights: on the device `meta`, where no size may depend on data."""
    make, config = REAL[name]
    with torch.device("meta"):
        theirs = make(config).eval()
        if make is MixtralForCausalLM:
            theirs.set_experts_implementation("batched_mm")
        tokens, mask = torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 1, 5, 5)
    model = program(name).model(name)
    assert model.cost().parameters == sum(p.numel() for p in theirs.parameters())
    assert macs(model, N=1, T=5) == multiply_accumulates(theirs, tokens, attention_mask=mask, use_cache=False)


class Tagger(nn.Module):
    """What lstm_tagger.net and gru_tagger.net describe, by PyTorch's own recurrent classes."""

    def __init__(self, kind: str, layers: int) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding(10_000, 64)
        made = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](64, 128, layers, batch_first=True, bidirectional=True)
        self.add_module(kind, made)
        self.linear = nn.Linear(256, 17)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.linear(self.get_submodule(self.kind)(self.embedding(words))[0])


@pytest.mark.parametrize(("kind", "layers"), [("lstm", 1), ("lstm", 2), ("gru", 1), ("gru", 2)])
def test_scores_are_those_of_torchs_recurrent_classes(kind: str, layers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Tagger(kind, layers).eval()
    spec = netc.load(SPECS / f"{kind}_tagger.net")
    name = f"{kind}_tagger" if layers == 1 else f"{kind}_tagger_deep"
    ours = loaded(spec, name, theirs.state_dict(), tmp_path)
    words = torch.randint(0, 10_000, (3, 11))
    with torch.no_grad():
        found, wanted = ours(words), theirs(words)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert spec.model(name).cost().parameters == sum(p.numel() for p in theirs.parameters())
    with torch.backends.mkldnn.flags(enabled=False):  # FlopCounterMode does not see into oneDNN's kernel
        assert macs(spec.model(name), N=3, T=11) == multiply_accumulates(theirs, words)
