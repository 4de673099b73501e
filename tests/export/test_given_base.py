"""Whether a base model can be the one that an adapter or a checkpoint was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gguf_files import byte_level_fields, random_base, write_gguf
from rfprm_export import ExportError
from rfprm_export.base_model import config_fields
from rfprm_export.given_base import (
    WEIGHTS_DIGEST,
    check_weights,
    doubt_about,
    some_weights_digest,
)
from rfprm_export.lora import AdapterConfig
from rfprm_export.opened_model import open_model
from rfprm_export.source import Source, open_source
from rfprm_export.stored_weights import StoredWeights
from rfprm_runtime.artifact.manifest import Backbone
from tiny_models import byte_tokenizer

TOKENIZER = byte_tokenizer()
SHAPE = Backbone(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    vocab_size=TOKENIZER.get_vocab_size(),
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
)


def config(shape: Backbone = SHAPE, **more: Any) -> str:
    described = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    return json.dumps({**described, "max_position_embeddings": 64, **config_fields(shape), **more})


def save_base(folder: Path, shape: Backbone = SHAPE, **more: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config(shape, **more))
    save_file(random_base(shape), folder / "model.safetensors")
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return folder


def save_adapter(folder: Path, *, layers: int = 2, first_layer: int = 0, **settings: Any) -> Path:
    folder.mkdir()
    described = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 2,
        "task_type": "TOKEN_CLS",
        "target_modules": ["q_proj"],
        **settings,
    }
    (folder / "adapter_config.json").write_text(json.dumps(described))
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    updated = range(first_layer, layers)
    tensors = {name.format(i, "A"): np.ones((2, 32), np.float32) for i in updated}
    tensors |= {name.format(i, "B"): np.ones((32, 2), np.float32) for i in updated}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merged(adapter: Path, base: Path) -> Any:
    return open_model(open_source(adapter), base).read()


# What an adapter's folder holds besides.


def test_a_config_beside_an_adapter_must_be_that_of_the_base(tmp_path: Path) -> None:
    base, adapter = save_base(tmp_path / "base"), save_adapter(tmp_path / "adapter")
    for same in (
        config(),
        config(vocab_size=SHAPE.vocab_size + 2),  # tokens were added
        config(quantization_config={"quant_method": "bitsandbytes"}),  # trained on it in 4 bits
        "{}",
    ):
        (adapter / "config.json").write_text(same)
        assert merged(adapter, base).backbone == SHAPE
    for other, said in (
        ({"rope_theta": 1e6}, "rope_theta 1000000.0 and not 10000.0"),
        ({"num_hidden_layers": 3}, "num_layers 3 and not 2"),
        ({"intermediate_size": 64, "rms_norm_eps": 1e-5}, "intermediate_size 64 .* rms_norm_eps"),
    ):
        (adapter / "config.json").write_text(config(**other))
        with pytest.raises(ExportError, match=f"is not the base model of .*{said}.* with --base"):
            merged(adapter, base)


def test_a_config_beside_an_adapter_is_compared_with_a_gguf_base_too(tmp_path: Path) -> None:
    shape = SHAPE.model_copy(update={"rope_theta": 5_000.1, "rms_norm_eps": 1e-5})
    base = write_gguf(
        tmp_path / "base.gguf", shape, random_base(shape), byte_level_fields(TOKENIZER)
    )
    adapter = save_adapter(tmp_path / "adapter")
    (adapter / "config.json").write_text(config(shape))
    assert merged(adapter, base).backbone.rope_theta == pytest.approx(5_000.1)
    (adapter / "config.json").write_text(config())
    with pytest.raises(ExportError, match=r"base\.gguf is not the base model .*rope_theta"):
        merged(adapter, base)


def test_a_tokenizer_beside_an_adapter_must_have_the_bases_ids(tmp_path: Path) -> None:
    base, adapter = save_base(tmp_path / "base"), save_adapter(tmp_path / "adapter")
    own = byte_tokenizer()
    own.add_special_tokens(["[PRM]"])
    own.save(str(adapter / "tokenizer.json"))
    assert merged(adapter, base).tokenizer.token_to_id("[PRM]") is not None
    content = json.loads(own.to_str())
    ids = content["model"]["vocab"]
    ids["th"], ids["the"] = ids["the"], ids["th"]
    (adapter / "tokenizer.json").write_text(json.dumps(content))
    said = f"2 of its tokens have other ids .*'th' {ids['the']} and not {ids['th']}"
    with pytest.raises(ExportError, match=said):
        merged(adapter, base)


# Layers.


def test_an_adapter_of_a_model_of_fewer_layers_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    said = r"was trained on a model of 1 layers, and the base model has 2; give the right base"
    with pytest.raises(ExportError, match=said):
        merged(save_adapter(tmp_path / "smaller", layers=1), base)
    some = save_adapter(tmp_path / "some", layers=1, layers_to_transform=[0])
    assert merged(some, base).backbone == SHAPE


def test_an_adapter_of_upper_layers_alone_says_nothing_about_the_base(tmp_path: Path) -> None:
    base, upper = save_base(tmp_path / "base"), save_adapter(tmp_path / "upper", first_layer=1)
    assert merged(upper, base).backbone == SHAPE


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"target_modules": ["q_proj", "mlp.down_proj"]}, True),
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": r".*layers\.[01]\..*q_proj"}, False),
        ({"target_modules": ["layers.0.self_attn.q_proj"]}, False),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0}, False),
        ({"target_modules": ["q_proj"], "layers_pattern": "layers"}, False),
        ({"target_modules": ["q_proj"], "exclude_modules": ["layers.1"]}, False),
        ({}, False),
    ],
)
def test_whether_an_adapter_is_in_every_layer(settings: dict[str, Any], expected: bool) -> None:
    found = AdapterConfig.model_validate({"peft_type": "LORA", "r": 1, "lora_alpha": 1, **settings})
    assert found.is_in_every_layer is expected


# Names.


@pytest.mark.parametrize(
    ("named", "base", "origin", "is_doubted"),
    [
        ("Qwen/Qwen2.5-Math-7B-Instruct", "Qwen2.5-Math-7B-Instruct", None, False),
        ("Qwen/Qwen2.5-Math-7B-Instruct", "qwen--qwen2.5-math-7b-instruct", None, False),
        ("../../models/Qwen2.5-Math-7B-Instruct/", "Qwen2.5-Math-7B-Instruct", None, False),
        ("C:\\models\\base", "base", None, False),
        ("org/base", "my-copy", "/home/me/base", False),
        ("org/base", "my-copy", None, True),
        ("org/base", "my-copy", "org/other", True),
        ("org/base", "my-copy", 3, True),
        ("unsloth/qwen-bnb-4bit", "qwen", None, True),
        ("a[b]*", "a[b]*", None, False),
        ("a*", "another", None, True),
        (None, "base", None, True),
    ],
)
def test_a_base_with_another_name_is_said(
    named: str | None, base: str, origin: Any, is_doubted: bool
) -> None:
    source = Source(Path(base), base, "model", frozenset(), {"folder": base})
    doubt = doubt_about(named, source, {"_name_or_path": origin})
    assert (doubt is not None) is is_doubted
    if doubt is not None and named is not None:
        assert named in doubt


def test_a_manifest_names_the_base_that_was_merged_and_the_doubt(tmp_path: Path) -> None:
    base = save_base(tmp_path / "mine")
    adapter = save_adapter(tmp_path / "adapter", base_model_name_or_path="org/theirs")
    record = open_model(open_source(adapter), base).record
    assert record["base"] == {"folder": "mine"}
    assert "'org/theirs' was named; that it is this one cannot be told" in record["base_doubt"]
    assert (
        "base_doubt"
        not in open_model(open_source(adapter), base.rename(tmp_path / "theirs")).record
    )


# Recorded weights.


def test_recorded_weights_tell_models_of_one_shape_apart(tmp_path: Path) -> None:
    weights = random_base(SHAPE)
    source = {WEIGHTS_DIGEST: some_weights_digest(StoredWeights.of(weights))}
    turned = dict(reversed(weights.items()))
    half = {name: array.astype(np.float16).astype(np.float32) for name, array in weights.items()}
    check_weights(StoredWeights.of(turned), source, tmp_path)
    check_weights(
        StoredWeights.of({**weights, "lm_head.weight": weights["model.norm.weight"]}),
        source,
        tmp_path,
    )
    check_weights(StoredWeights.of(half), {}, tmp_path)  # of an older checkpoint
    for name in ("input_layernorm", "self_attn.q_proj"):
        for layer in range(SHAPE.num_layers):
            tuned = dict(weights)
            whole = f"model.layers.{layer}.{name}.weight"
            tuned[whole] = tuned[whole] + np.float32(1e-3)
            with pytest.raises(ExportError, match="is not the base model that the checkpoint was"):
                check_weights(StoredWeights.of(tuned), source, tmp_path)
