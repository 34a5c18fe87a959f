"""ViT, Swin, BERT and GPT-2 against `transformers`' own classes, and MLP-Mixer against a few lines of PyTorch.

A small model is declared after each spec's own text, and loads the other's checkpoint through the spec's rename map.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import netc
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import safetensors.torch as safetensors
import torch
import torch.utils.flop_counter as flop_counter
import transformers

SPECS = Path(__file__).parents[1] / "specs"


def scattered(module: Any, seed: int = 0) -> Any:
    """The module with every parameter drawn anew, norms and biases too, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (1.0 if parameter.dim() == 1 else 0.0))
    return module.eval()


def ours(folder: Path, spec: str, model: str, tensors: dict[str, Any], rename: str | None = "transformers") -> Any:
    """The module of `model`, a declaration without its name, after the spec's text, with the checkpoint's tensors."""
    for file in SPECS.glob("*.net"):
        shutil.copy(file, folder)
    safetensors.save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, folder / "w.safetensors")
    by = f", rename = {rename}" if rename else ""
    text = (SPECS / f"{spec}.net").read_text(encoding="utf-8")
    path = folder / f"{spec}.net"
    path.write_text(f'{text}\nmodel small = {model} |> load("w.safetensors"{by})\n', encoding="utf-8")
    return netc.load(path).model("small").torch().eval()


def assert_close(got: Any, expected: Any) -> None:
    assert got.shape == expected.shape
    scale = expected.abs().max()
    assert scale > 0.1
    assert (got - expected).abs().max() <= 1e-5 * max(1.0, float(scale))


def older(name: str, table: dict[str, str]) -> str:
    """A tensor's name as in files that were written before `transformers` renamed its modules."""
    for new, old in table.items():
        name = name.replace(new, old)
    return name


# ---------------------------------------------------------------------------------------------------------- ViT

OLD_VIT = {
    "vit.layers.": "vit.encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def vit(**sizes: Any) -> Any:
    return transformers.ViTConfig(attn_implementation="eager", layer_norm_eps=1e-6, **sizes)


@pytest.mark.parametrize("table", [{}, OLD_VIT], ids=["present names", "older names"])
def test_vit(tmp_path: Path, table: dict[str, str]):
    small = vit(
        hidden_size=48, num_attention_heads=3, num_hidden_layers=2, intermediate_size=96, image_size=32, patch_size=8,
        num_labels=7,
    )  # fmt: skip
    theirs = scattered(transformers.ViTForImageClassification(small))
    tensors = {older(k, table): v for k, v in theirs.state_dict().items()}
    declaration = "ViT(48, 3, depth = 2, patch = 8, ratio = 2, classes = 7) (x: f32[N, 3, 32, 32])"
    module = ours(tmp_path, "vit", declaration, tensors)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(module(x), theirs(x).logits)


# --------------------------------------------------------------------------------------------------------- Swin

OLD_SWIN = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention.relative_position_bias.": "attention.self.",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


@pytest.mark.parametrize("table", [{}, OLD_SWIN], ids=["present names", "older names"])
def test_swin(tmp_path: Path, table: dict[str, str]):
    """Maps of 12 × 12 in shifted windows of 3, then 6 × 6, then 3 × 3: a single window, which is not shifted."""
    small = transformers.SwinConfig(
        image_size=48, patch_size=4, embed_dim=24, depths=[2, 2, 2], num_heads=[2, 3, 6], window_size=3, mlp_ratio=2,
        num_labels=7, attn_implementation="eager",
    )  # fmt: skip
    theirs = scattered(transformers.SwinForImageClassification(small))
    tensors = {older(k, table): v for k, v in theirs.state_dict().items()}
    if table:
        tensors["swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = torch.zeros(9, 9).long()
    declaration = "Swin(24, [2, 2, 2], [2, 3, 6], window = 3, ratio = 2, classes = 7) (x: f32[N, 3, 48, 48])"
    module = ours(tmp_path, "swin", declaration, tensors)
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(module(x), theirs(x).logits)


def test_swin_of_an_oblong_image(tmp_path: Path):
    small = transformers.SwinConfig(
        image_size=(32, 64), patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 3], window_size=4, mlp_ratio=2,
        num_labels=7, attn_implementation="eager",
    )  # fmt: skip
    theirs = scattered(transformers.SwinForImageClassification(small))
    declaration = "Swin(24, [2, 2], [2, 3], window = 4, ratio = 2, classes = 7) (x: f32[N, 3, 32, 64])"
    module = ours(tmp_path, "swin", declaration, theirs.state_dict())
    x = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(module(x), theirs(x).logits)


def test_swin_from_the_authors_names(tmp_path: Path):
    """Their files hold masks and indices, which the graph computes."""
    declaration = "Swin(24, [2, 2], [2, 3], window = 4, ratio = 2, classes = 7) (x: f32[N, 3, 32, 32])"
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    text = (SPECS / "swin.net").read_text(encoding="utf-8")
    shutil.copy(SPECS / "vit.net", first)
    (first / "swin.net").write_text(f"{text}\nmodel small = {declaration}\n", encoding="utf-8")
    source = netc.load(first / "swin.net").model("small").torch(seed=3).eval()
    tensors = dict(source.state_dict())
    tensors["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    tensors["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16).long()
    module = ours(second, "swin", declaration, tensors, "authors")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(module(x), source(x))


# --------------------------------------------------------------------------------------------------------- BERT


def bert() -> Any:
    return transformers.BertConfig(
        vocab_size=99, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=40, attn_implementation="eager",
    )  # fmt: skip


SMALL_BERT = (
    "Bert(99, 48, 2, 4, 96, positions = 40) (tokens: i64[N, T], token_types: i64[N, T], attention_mask: i64[N, T])"
)


@pytest.mark.parametrize("published", [False, True], ids=["BertModel", "as published"])
def test_bert(tmp_path: Path, published: bool):
    theirs = scattered(transformers.BertModel(bert()))
    tensors = dict(theirs.state_dict())
    if published:
        gammas = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        tensors = {"bert." + older(k, gammas): v for k, v in tensors.items()}
        tensors["cls.predictions.bias"] = torch.zeros(99)
        tensors["bert.embeddings.position_ids"] = torch.arange(40)[None]
    module = ours(tmp_path, "bert", SMALL_BERT, tensors)
    generator = torch.Generator().manual_seed(1)
    for n, t in ((3, 40), (1, 5)):
        tokens = torch.randint(99, (n, t), generator=generator)
        types = torch.randint(2, (n, t), generator=generator)
        mask = (torch.arange(t) < torch.randint(2, t + 1, (n, 1), generator=generator)).long()
        with torch.no_grad():
            expected = theirs(tokens, attention_mask=mask, token_type_ids=types)
            hidden, pooled = module(tokens, types, mask)
        assert_close(hidden, expected.last_hidden_state)
        assert_close(pooled, expected.pooler_output)


# -------------------------------------------------------------------------------------------------------- GPT-2


def gpt2() -> Any:
    return transformers.GPT2Config(
        vocab_size=99, n_embd=48, n_layer=2, n_head=4, n_positions=40, attn_implementation="eager"
    )


SMALL_GPT2 = "GPT2(99, 48, 2, 4, positions = 40) (tokens: i64[N, T])"


@pytest.mark.parametrize("published", [False, True], ids=["GPT2LMHeadModel", "as published"])
def test_gpt2(tmp_path: Path, published: bool):
    theirs = scattered(transformers.GPT2LMHeadModel(gpt2()))
    tensors = dict(theirs.state_dict())
    if published:
        tensors = {k.removeprefix("transformer."): v for k, v in tensors.items() if k != "lm_head.weight"}
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 40, 40)
    module = ours(tmp_path, "gpt2", SMALL_GPT2, tensors)
    generator = torch.Generator().manual_seed(1)
    for n, t in ((2, 40), (1, 3)):
        tokens = torch.randint(99, (n, t), generator=generator)
        with torch.no_grad():
            assert_close(module(tokens), theirs(tokens).logits)


def test_the_head_of_gpt2_is_its_embedding(tmp_path: Path):
    """Gradients of reading and of predicting a token meet in one tensor, as in `transformers`."""
    theirs = scattered(transformers.GPT2LMHeadModel(gpt2()))
    module = ours(tmp_path, "gpt2", SMALL_GPT2, dict(theirs.state_dict()))
    assert sum(p.numel() for p in module.parameters()) == theirs.num_parameters()
    tokens = torch.randint(99, (2, 12), generator=torch.Generator().manual_seed(1))
    for model, logits in ((theirs, theirs(tokens).logits), (module, module(tokens))):
        model.zero_grad()
        logits.square().mean().backward()
    table = theirs.transformer.wte.weight.grad
    assert torch.allclose(
        module.get_parameter("wte.weight").grad, table, rtol=1e-4, atol=1e-5 * float(table.abs().max())
    )


# -------------------------------------------------------------------------------------------------------- Mixer


def mixer(x: Any, w: dict[str, Any], depth: int, patch: int) -> Any:
    """MLP-Mixer, section 2 and figure 1 of the paper, on the parameters `w`."""
    f = torch.nn.functional

    def norm(x: Any, name: str) -> Any:
        return f.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    n, c, height, width = x.shape
    x = x.reshape(n, c, height // patch, patch, width // patch, patch).permute(0, 2, 4, 1, 3, 5)
    x = x.reshape(n, -1, c * patch * patch) @ w["stem.proj.weight"].flatten(1).T + w["stem.proj.bias"]
    for i in range(depth):
        b = f"blocks.{i}"
        y = f.gelu(linear(norm(x, f"{b}.norm1").mT, f"{b}.mlp_tokens.fc1"))
        x = x + linear(y, f"{b}.mlp_tokens.fc2").mT
        x = x + linear(f.gelu(linear(norm(x, f"{b}.norm2"), f"{b}.mlp_channels.fc1")), f"{b}.mlp_channels.fc2")
    return linear(norm(x, "norm").mean(1), "head")


def test_mixer(tmp_path: Path):
    for file in SPECS.glob("*.net"):
        shutil.copy(file, tmp_path)
    path = tmp_path / "mixer.net"
    declaration = "Mixer(24, 2, patch = 8, tokens = 10, channels = 40, classes = 7) (x: f32[N, 3, 32, 16])"
    path.write_text(path.read_text(encoding="utf-8") + f"\nmodel small = {declaration}\n", encoding="utf-8")
    module = scattered(netc.load(path).model("small").torch())
    x = torch.randn(3, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(module(x), mixer(x, module.state_dict(), 2, 8))


# --------------------------------------------------------------------------------------------------------- Cost


IMAGE = (1, 3, 224, 224)
FULL_SIZE = {
    "vit.net:deit_tiny": (
        lambda: transformers.ViTForImageClassification(
            vit(hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=1000)
        ),
        IMAGE,
        {"N": 1},
    ),
    "vit.net:deit_small": (
        lambda: transformers.ViTForImageClassification(
            vit(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
        ),
        IMAGE,
        {"N": 1},
    ),
    "vit.net:vit_b_16": (lambda: transformers.ViTForImageClassification(vit(num_labels=1000)), IMAGE, {"N": 1}),
    "swin.net:swin_tiny": (
        lambda: transformers.SwinForImageClassification(
            transformers.SwinConfig(num_labels=1000, attn_implementation="eager")
        ),
        IMAGE,
        {"N": 1},
    ),
    "bert.net:bert": (
        lambda: transformers.BertModel(transformers.BertConfig(attn_implementation="eager")),
        (1, 512),
        {"N": 1, "T": 512},
    ),
    "bert.net:bert_mini": (
        lambda: transformers.BertModel(
            transformers.BertConfig(
                hidden_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
                intermediate_size=1024,
                attn_implementation="eager",
            )
        ),
        (1, 128),
        {"N": 1, "T": 128},
    ),
    "gpt2.net:gpt2": (
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation="eager")),
        (1, 1024),
        {"N": 1, "T": 1024},
    ),
}


def counted(module: Any, *inputs: Any) -> int:
    with flop_counter.FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", FULL_SIZE)
def test_cost_of_the_real_sizes(name: str):
    """Parameters and multiply-accumulates are those of `transformers`' class, which runs without any data."""
    make, shape, bind = FULL_SIZE[name]
    file, model = name.split(":")
    total = netc.load(SPECS / file).model(model).cost(bind).total
    with torch.device("meta"):
        theirs = make()
        macs = counted(theirs, torch.zeros(shape, dtype=torch.float if len(shape) == 4 else torch.long))
    assert total.parameters == theirs.num_parameters()
    assert total.macs == macs


def test_cost_of_the_mixer():
    model = netc.load(SPECS / "mixer.net").model("mixer_b16")
    module = model.torch().to("meta")
    assert model.cost({"N": 1}).total.macs == counted(module, torch.zeros(IMAGE, device="meta"))
