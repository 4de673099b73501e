"""Repositories that hold a LoRA adapter alone, as PEFT saves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hub_server import COMMIT, HubServer, Repo
from rfprm_export import ExportError
from rfprm_export.lora import read_adapter_config
from rfprm_export.opened_model import open_model
from rfprm_export.source import open_source
from tiny_models import byte_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
HEADS = {
    "CAUSAL_LM": "Qwen2ForCausalLM",
    "TOKEN_CLS": "Qwen2ForTokenClassification",
    "SEQ_CLS": "Qwen2ForSequenceClassification",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model."""
    import transformers

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE)).save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def adapted(base: Path, folder: Path, task: str, *, resize: int = 0, **settings: Any) -> Any:
    """An adapter over ``base`` in ``folder``, with random updates; returns PEFT's own merge."""
    import transformers
    from peft import LoraConfig, get_peft_model

    kind = getattr(transformers, HEADS[task])
    labels = {} if task == "CAUSAL_LM" else {"num_labels": 2 if task == "TOKEN_CLS" else 1}
    model = kind.from_pretrained(base, **labels)
    if resize:
        model.resize_token_embeddings(resize, mean_resizing=False)
    config = LoraConfig(
        r=4, lora_alpha=8, task_type=task, **{"target_modules": ["q_proj", "down_proj"], **settings}
    )
    whole = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in whole.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    whole.save_pretrained(folder, save_embedding_layers=bool(resize) or "auto")
    return whole.merge_and_unload()


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("CAUSAL_LM", {}),
        ("CAUSAL_LM", {"resize": 308}),
        ("CAUSAL_LM", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("CAUSAL_LM", {"bias": "all", "target_modules": ["q_proj", "up_proj"]}),
        ("TOKEN_CLS", {"use_rslora": True}),
        ("SEQ_CLS", {"target_modules": ["q_proj"], "resize": 304}),
    ],
)
def test_an_adapter_over_its_base_is_pefts_merged_model(
    base: Path, tmp_path: Path, task: str, settings: dict[str, Any]
) -> None:
    merged = adapted(base, tmp_path, task, **settings)
    opened = open_model(open_source(tmp_path), str(base))
    assert opened.architectures == (HEADS[task],)
    model = opened.read()
    assert model.backbone.vocab_size == settings.get("resize", 300)
    state = {name: x.float().numpy() for name, x in merged.state_dict().items()}
    # The base's own head stays beside a classifier's.
    assert set(model.weights) - set(state) == ({"lm_head.weight"} - set(state))
    for name, array in state.items():
        np.testing.assert_allclose(model.weights[name], array, atol=2e-5, err_msg=name)


def test_older_names_of_saved_modules_are_read_and_the_bases_copy_is_not(
    base: Path, tmp_path: Path
) -> None:
    merged = adapted(base, tmp_path, "TOKEN_CLS")
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    head = tensors.pop("base_model.model.score.weight")
    tensors["base_model.model.score.modules_to_save.weight"] = head
    bias = tensors.pop("base_model.model.score.bias")
    tensors["base_model.model.score.modules_to_save.default.bias"] = bias
    tensors["base_model.model.score.original_module.weight"] = head + 1
    save_file({f"module.{name}": x for name, x in tensors.items()}, path)
    weights = open_model(open_source(tmp_path), base).read().weights
    assert weights["score.weight"].tolist() == merged.score.weight.tolist()
    assert weights["score.bias"].tolist() == merged.score.bias.tolist()


def test_a_pickled_adapter_is_read(base: Path, tmp_path: Path) -> None:
    merged = adapted(base, tmp_path, "SEQ_CLS")
    path = tmp_path / "adapter_model.safetensors"
    torch.save({n: torch.tensor(x) for n, x in load_file(path).items()}, path.with_suffix(".bin"))
    path.unlink()
    weights = open_model(open_source(tmp_path), base).read().weights
    assert weights["score.weight"].tolist() == merged.score.weight.tolist()


def test_an_adapter_with_a_tokenizer_of_its_own_keeps_it(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, "CAUSAL_LM", resize=304)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["[PRM]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = open_model(open_source(tmp_path), base).read().tokenizer
    assert found.token_to_id("[PRM]") == tokenizer.token_to_id("[PRM]")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "loftq"},
        {"layer_replication": [[0, 1]]},
        {"fan_in_fan_out": True},
        {"alora_invocation_tokens": [1]},
        {"alpha_pattern": {"q_proj": 2}},
        {"trainable_token_indices": [1]},
        {"peft_type": "ADALORA"},
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(
    changes: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    adapted(base, tmp_path, "CAUSAL_LM")
    change_config(tmp_path, **changes)
    with pytest.raises(ExportError, match="expected plain LoRA; merge it with peft first"):
        read_adapter_config(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"base_model.model.model.embed_tokens.lora_embedding_A": (2, 3)}, "not the update of a"),
        ({"base_model.model.model.layers.7.mlp.bias": (2,)}, "does not belong to the base"),
        ({"base_model.model.model.norm.weight": (31,)}, r"has shape \(31,\), but the base model's"),
        ({"base_model.model.score.weight": (1, 32), "score.weight": (1, 32)}, "twice"),
        ({}, "holds no tensors"),
    ],
)
def test_tensors_of_another_model_are_refused(
    tensors: dict[str, tuple[int, ...]], said: str, base: Path, tmp_path: Path
) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    arrays = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    save_file(arrays, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ExportError, match=said):
        open_model(open_source(tmp_path), base).read()


def test_a_folder_does_not_choose_what_is_fetched(
    hub: HubServer, base: Path, tmp_path: Path
) -> None:
    hub.repos["org/base"] = Repo.of(base)
    folder = tmp_path / "adapter"
    merged = adapted(base, folder, "SEQ_CLS")
    change_config(folder, base_model_name_or_path="org/base", revision="main")
    with pytest.raises(
        ExportError, match=r"an adapter over org/base@main; .* --base org/base@main"
    ):
        open_model(open_source(folder))
    assert hub.requests == []
    weights = open_model(open_source(folder), "org/base").read().weights
    assert weights["score.weight"].tolist() == merged.score.weight.tolist()
    for named in (str(base), None, "", "../base"):
        change_config(folder, base_model_name_or_path=named)
        with pytest.raises(ExportError, match=r"not a model of the Hub; give .* with --base"):
            open_model(open_source(folder))


def test_a_repository_may_name_the_repository_of_its_base(
    hub: HubServer, base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    adapted(base, folder, "SEQ_CLS")
    change_config(folder, base_model_name_or_path="org/base", revision="v2")
    commit = "f" * 40
    code = {"modeling_x.py": b"raise SystemExit"}
    hub.repos["org/base"] = Repo.of(base, extra=code, commit=commit, revisions=("v2",))
    hub.repos["org/adapter"] = Repo.of(folder, extra=code)
    opened = open_model(open_source("org/adapter"))
    assert opened.architectures == (HEADS["SEQ_CLS"],)
    assert hub.fetched() == {"adapter_config.json", "config.json"}
    assert opened.record == {
        "repo": "org/adapter",
        "revision": COMMIT,
        "base": {"repo": "org/base", "revision": commit},
    }
    opened.read()
    weights = {"adapter_model.safetensors", "model.safetensors", "tokenizer.json"}
    assert hub.fetched() == {"adapter_config.json", "config.json", *weights}


def test_a_config_beside_an_adapter_is_that_of_its_base(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, "TOKEN_CLS")
    shutil.copy(base / "config.json", tmp_path)
    assert open_model(open_source(tmp_path), base).architectures == (HEADS["TOKEN_CLS"],)
    shutil.copy(base / "model.safetensors", tmp_path)
    with pytest.raises(ExportError, match=r"a whole model .* and an adapter"):
        open_source(tmp_path)


def test_an_adapter_is_no_base(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, "CAUSAL_LM")
    with pytest.raises(ExportError, match="is itself an adapter"):
        open_model(open_source(tmp_path), tmp_path)
    with pytest.raises(ExportError, match="needs no --base; leave it out"):
        open_model(open_source(base), base)


@pytest.mark.parametrize(
    ("files", "config_of", "template_of"),
    [
        ([], "base", "base"),
        (["chat_template.jinja"], "base", "adapter"),
        (["tokenizer_config.json"], "adapter", "adapter"),
        (["tokenizer_config.json", "chat_template.jinja"], "adapter", "adapter"),
    ],
)
def test_an_adapters_own_texts_come_before_those_of_its_base(
    tmp_path: Path, files: list[str], config_of: str, template_of: str
) -> None:
    """Trainers save the chat template beside the adapter, with the tokenizer or alone."""
    for folder in ("base", "adapter"):
        (tmp_path / folder).mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    for name in ("adapter_config.json", *files):
        (tmp_path / "adapter" / name).write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    opened = open_model(open_source(tmp_path / "adapter"), tmp_path / "base")
    assert (opened.texts, opened.chat) == (tmp_path / config_of, tmp_path / template_of)
