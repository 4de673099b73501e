"""GGUF files are read as the models that they were written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gguf_files import byte_level_fields, random_base, write_gguf
from published_models import QWEN_CHAT, QWEN_SPECIAL
from rfprm_export import ExportError
from rfprm_export.chat_template import read_chat_template, read_tokenizer_config
from rfprm_export.checkpoint import load_prm
from rfprm_export.gguf_file import open_gguf
from rfprm_export.gguf_reader import read_gguf
from rfprm_export.opened_model import open_model
from rfprm_export.preset import ReadingOptions
from rfprm_export.source import open_source
from rfprm_runtime import Trajectory
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.artifact.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling
from rfprm_runtime.backends.rotary import rotary_frequencies
from tiny_models import byte_tokenizer
from tokenizer_files import CONTROL, USER_DEFINED, bpe_pieces

TOKENIZER = byte_tokenizer()
BIASED = {"qkv_bias": True}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"qkv_bias": True, "output_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", BIASED),
    "qwen3": ("qwen3", {"qk_norm": True, "head_dim": 16}),
}
COMMON = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
COMMON += ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


def _shape(**changes: Any) -> Backbone:
    fields = {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": TOKENIZER.get_vocab_size(),
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
    }
    return Backbone(**{**fields, **changes})


def _write(path: Path, shape: Backbone | None = None, **options: Any) -> Path:
    shape = shape or _shape()
    vocabulary = options.pop("vocabulary", byte_level_fields(TOKENIZER))
    return write_gguf(path / "x.gguf", shape, random_base(shape), vocabulary, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_weights_are_those_that_were_written(kind: str, tmp_path: Path) -> None:
    architecture, changes = KINDS[kind]
    shape = _shape(**changes)
    found, weights, _, positions = read_gguf(_write(tmp_path, shape, architecture=architecture))
    assert found == shape
    assert positions == 64
    expected = random_base(shape)
    assert weights.keys() == expected.keys()
    for name, array in expected.items():
        assert weights[name].tolist() == array.tolist(), name


def test_a_language_models_head_keeps_its_name(tmp_path: Path) -> None:
    head = np.ones((TOKENIZER.get_vocab_size(), 32), np.float32)
    _, weights, _, _ = read_gguf(_write(tmp_path, more={"output.weight": head}))
    assert weights["lm_head.weight"].tolist() == head.tolist()


@pytest.mark.parametrize("kind", COMMON)
def test_blocks_are_decoded_as_the_package_decodes_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random blocks, in several parts."""
    quant = gguf.GGMLQuantizationType[kind]
    block, block_bytes = gguf.GGML_QUANT_SIZES[quant]
    row = 256 // block * block_bytes
    data = np.random.default_rng(1).integers(0, 256, (37, row), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("a", np.zeros(32, np.float32))
    writer.add_tensor("b", data, raw_shape=data.shape, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr("rfprm_export.gguf_file._BYTES_AT_ONCE", 10 * row)
    tensor = open_gguf(tmp_path / "x.gguf").tensors[1]
    assert tensor.shape == (37, 256)
    with np.errstate(all="ignore"):  # random scales overflow
        found, expected = tensor.floats(), gguf.quants.dequantize(data, quant)
    assert found.dtype == np.float32
    assert found.tobytes() == np.asarray(expected, np.float32).tobytes()


def test_a_kind_without_a_decoder_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    data = np.zeros((2, 292), np.uint8)
    quant = gguf.GGMLQuantizationType.Q8_K
    writer.add_tensor("a", data, raw_shape=data.shape, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    [tensor] = open_gguf(tmp_path / "x.gguf").tensors
    with pytest.raises(ExportError, match=r"'a' is stored as Q8_K, which cannot be decoded; give"):
        tensor.floats()


def test_weights_stay_in_the_file_until_they_are_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path)
    _, weights, _, _ = read_gguf(path)
    norm = weights["model.norm.weight"]
    content = path.read_bytes()
    place = content.rindex(norm.tobytes())
    path.write_bytes(content[:place] + bytes(len(norm) * 4) + content[place + len(norm) * 4 :])
    with pytest.raises(ExportError, match="was changed while it was read"):
        weights["model.norm.weight"]


# The rotary embedding.

LLAMA3 = Llama3Scaling(
    factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
)


def _divisors(shape: Backbone) -> NDArray[np.float32]:
    scaled = shape.model_copy(update={"rope_scaling": LLAMA3})
    return (rotary_frequencies(shape) / rotary_frequencies(scaled)).astype(np.float32)


@pytest.mark.parametrize("head_dim", [16, 128])
def test_the_table_of_llama_3_is_its_scaling(head_dim: int, tmp_path: Path) -> None:
    shape = _shape(head_dim=head_dim, rope_theta=500_000.0)
    path = _write(tmp_path, shape, more={"rope_freqs.weight": _divisors(shape)})
    assert read_gguf(path)[0].rope_scaling == LLAMA3


def test_a_table_of_ones_scales_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path, more={"rope_freqs.weight": np.ones(4, np.float32)})
    assert read_gguf(path)[0].rope_scaling is None


SCALING = "ARCH.rope.scaling"
YARN = {f"{SCALING}.type": "yarn", f"{SCALING}.factor": 4.0}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({f"{SCALING}.type": "none", f"{SCALING}.factor": 4.0}, None),
        ({f"{SCALING}.type": "linear", f"{SCALING}.factor": 2.5}, LinearScaling(factor=2.5)),
        ({"ARCH.rope.scale_linear": 2.0}, LinearScaling(factor=2.0)),
        (
            {**YARN, f"{SCALING}.original_context_length": 32_768},
            YarnScaling(
                factor=4.0,
                original_max_positions=32_768,
                attention_factor=1 + 0.1 * float(np.log(4)),
            ),
        ),
    ],
)
def test_scalings_are_those_of_the_fields(
    fields: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    assert read_gguf(_write(tmp_path, fields=fields))[0].rope_scaling == expected


def test_llama_1_and_2_have_no_field_for_theta(tmp_path: Path) -> None:
    found = read_gguf(_write(tmp_path, fields={"ARCH.rope.freq_base": None}))[0]
    assert found.rope_theta == 10_000.0


# Tokenizers.


def _byte_level(rules: str, **changes: Any) -> dict[str, Any]:
    return {**byte_level_fields(TOKENIZER, rules), **changes}


@pytest.mark.parametrize(
    ("rules", "tokens"),
    [
        ("gpt-2", ["the", "Ġ", "12", "3", "4", "."]),
        ("smollm", ["the", "Ġ", "1", "2", "3", "4", "."]),
        ("qwen2", ["the", "Ġ", "1", "2", "3", "4", "."]),
        ("llama-bpe", ["the", "Ġ", "123", "4", "."]),
    ],
)
def test_rules_of_byte_level_tokenizers(rules: str, tokens: list[str], tmp_path: Path) -> None:
    """Llama 3 takes a word of the vocabulary whole, though no merge leads to it."""
    names = {"Ġ=": "12", "in": "123"}
    vocabulary = _byte_level(rules, merges=["t h", "th e", "1 2"])
    vocabulary["tokens"] = [names.get(token, token) for token in vocabulary["tokens"]]
    tokenizer = read_gguf(_write(tmp_path, vocabulary=vocabulary))[2]
    assert tokenizer.encode("the 1234.").tokens == tokens
    composed = tokenizer.encode("e\u0301").ids == tokenizer.encode("é").ids
    assert composed == (rules == "qwen2")


def test_types_of_tokens_say_what_is_special(tmp_path: Path) -> None:
    """Control tokens are, user-defined ones are not, and unused ones only fill rows."""
    vocabulary = byte_level_fields(TOKENIZER)
    kinds = dict(zip(vocabulary["tokens"], vocabulary["token_type"], strict=True))
    kinds |= {"<extra_0>": USER_DEFINED, "<|quad_end|>": 5}
    vocabulary["token_type"] = list(kinds.values())
    tokenizer = read_gguf(_write(tmp_path, vocabulary=vocabulary))[2]
    added = {t.content: t.special for t in tokenizer.get_added_tokens_decoder().values()}
    assert added["<|im_end|>"]
    assert not added["<extra_0>"]
    assert tokenizer.token_to_id("<|quad_end|>") is None
    last = TOKENIZER.token_to_id("<|quad_start|>")
    assert tokenizer.token_to_id("<|quad_start|>") == last


def test_a_special_token_that_is_a_word_is_refused(tmp_path: Path) -> None:
    """Llama 3 takes words whole, so users could write it."""
    vocabulary = _byte_level("llama-bpe")
    place = vocabulary["tokens"].index("<extra_0>")
    vocabulary["tokens"][place] = "end"
    assert vocabulary["token_type"][place] == CONTROL
    with pytest.raises(ExportError, match="the text 'end' would become the token of that name"):
        read_gguf(_write(tmp_path, vocabulary=vocabulary))


def test_a_sentencepiece_vocabulary_is_read(tmp_path: Path) -> None:
    pieces = bpe_pieces()
    texts, scores, kinds = (list(column) for column in zip(*pieces, strict=True))
    vocabulary = {"model": "llama", "tokens": texts, "scores": scores, "token_type": kinds}
    path = _write(tmp_path, _shape(vocab_size=len(pieces)), vocabulary=vocabulary)
    tokenizer = read_gguf(path)[2]
    assert tokenizer.encode("the</s> the\n").tokens == ["t", "he", "</s>", "▁the", "<0x0A>"]


# What is refused.


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"architecture": "gemma2"}, r"architecture 'gemma2', expected one of \['llama', 'qwen2'"),
        ({"fields": {"general.type": "adapter"}}, "of the type 'adapter', expected 'model'"),
        ({"fields": {"split.count": 3}}, "is one of 3 files of a model; join them"),
        ({"fields": {"ARCH.expert_count": 8}}, "a mixture of experts"),
        ({"fields": {"ARCH.attention.sliding_window": 32}}, "sliding attention window"),
        ({"fields": {"ARCH.rope.dimension_count": 4}}, "llama.rope.dimension_count is 4, but"),
        ({"fields": {"ARCH.attention.value_length": 4}}, "value_length is 4, but a head has 8"),
        ({"fields": {"ARCH.attention.head_count_kv": [2, 1]}}, "of the class list, expected a wh"),
        ({"fields": {"ARCH.block_count": None}}, "no metadata field 'llama.block_count'"),
        ({"fields": {f"{SCALING}.type": "longrope"}}, "'longrope', the graph builder supports"),
        ({"fields": YARN}, "no metadata field 'llama.rope.scaling.original_context_length'"),
        ({"fields": {**YARN, f"{SCALING}.yarn_log_multiplier": 0.1}}, "supports only 0"),
        ({"more": {"rope_freqs.weight": np.arange(1.0, 5, dtype=np.float32)}}, "is not the one of"),
        ({"more": {"rope_freqs.weight": np.full(9, 8, np.float32)}}, r"shape \(9,\) is not the"),
        ({"more": {"blk.0.ffn_gate_inp.weight": np.ones(2, np.float32)}}, "knows no tensor 'blk.0"),
        ({"more": {"blk.0.attn_sinks.weight": np.ones(2, np.float32)}}, "give the Hugging Face"),
        ({"vocabulary": _byte_level("tekken")}, r"rules 'tekken', expected one of \['gpt-2'"),
        (
            {"vocabulary": _byte_level("smollm", model="t5")},
            "has a 't5' tokenizer, expected",
        ),
        ({"vocabulary": _byte_level("smollm", merges=["t h e"])}, "has the merge 't h e'"),
        ({"vocabulary": _byte_level("smollm", merges=["é t"])}, "has no usable tokenizer"),
        ({"vocabulary": _byte_level("smollm", token_type=[1])}, "some twice or without a type"),
        ({"vocabulary": _byte_level("smollm", model="llama", scores=[0.5])}, "and 1 scores"),
    ],
)
def test_other_files_are_refused(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=problem):
        read_gguf(_write(tmp_path, **options))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file_is_a_language_model(tmp_path: Path, architecture: str) -> None:
    """Its tensors have no other head, so the families of language models can be asked for."""
    path = _write(tmp_path, architecture=architecture)
    opened = open_model(open_source(path))
    assert opened.architectures == (f"{architecture.capitalize()}ForCausalLM",)
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "task_type": "TOKEN_CLS"}'
    )
    over = open_model(open_source(tmp_path), path)
    assert over.architectures == (f"{architecture.capitalize()}ForTokenClassification",)


@pytest.mark.parametrize("packed", ["", ".Q8_0", "-Q4_K_M", ".i1-IQ2_XS", "-BF16", ".f16", "-fp32"])
def test_a_packed_model_is_known_by_its_name(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"Llama3.1-8B-PRM-Deepseek-Data{packed}.gguf"
    path.touch()
    assert open_source(path).name == "Llama3.1-8B-PRM-Deepseek-Data"


# What is said in place of a tokenizer's config.

IDS = {"bos_token_id": 5, "eos_token_id": 6, "padding_token_id": 7}


@pytest.mark.parametrize(
    ("pre", "fields", "template", "begins"),
    [
        ("qwen2", {}, "", False),
        ("qwen2", {"add_bos_token": False}, "", False),
        ("qwen2", {"add_bos_token": True}, "", True),
        ("qwen2", {}, "{{ bos_token }}{{ messages }}", True),
        ("llama-bpe", {}, "{{ messages }}", True),
        ("llama-bpe", {"add_bos_token": False}, "{{ messages }}", False),
    ],
)
def test_a_gguf_file_has_the_chat_template_and_special_tokens_of_its_model(
    tmp_path: Path, pre: str, fields: dict[str, Any], template: str, begins: bool
) -> None:
    vocabulary = {**byte_level_fields(TOKENIZER, pre), **IDS, **fields}
    own = {"tokenizer.chat_template": template, "tokenizer.chat_template.tool_use": "no"}
    path = _write(tmp_path, vocabulary=vocabulary, fields=own if template else None)
    tokens = vocabulary["tokens"]
    expected = {"eos_token": tokens[6], "pad_token": tokens[7]}
    if begins:
        expected["bos_token"] = tokens[5]
    if template:
        expected["chat_template"] = template
    assert read_tokenizer_config(path) == expected
    if template:
        assert read_chat_template(path, None) == template
        return
    with pytest.raises(ExportError, match=r"has no chat template, .* --chat-template FILE"):
        read_chat_template(path, None)


@pytest.mark.parametrize(
    ("vocabulary", "fields", "problem"),
    [
        ({"eos_token_id": 70_000}, {}, "eos_token_id 70000, but only"),
        ({"eos_token_id": "2"}, {}, "eos_token_id' '2', expected a whole number"),
        ({}, {"tokenizer.chat_template": 3}, "chat_template' 3, expected a text"),
        ({"add_bos_token": 1}, {}, "add_bos_token' 1, expected true or false"),
    ],
)
def test_damaged_texts_of_a_gguf_file_are_refused(
    tmp_path: Path, vocabulary: dict[str, Any], fields: dict[str, Any], problem: str
) -> None:
    path = _write(
        tmp_path, vocabulary={**byte_level_fields(TOKENIZER), **vocabulary}, fields=fields
    )
    with pytest.raises(ExportError, match=problem):
        read_tokenizer_config(path)


def _classifier_over(path: Path, task: str, num_labels: int) -> Path:
    """An adapter that holds a head, and nothing of a tokenizer."""
    folder = path.parent / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        f'{{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "task_type": "{task}"}}'
    )
    head = np.ones((num_labels, 32), np.float32)
    save_file({"base_model.model.score.weight": head}, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_over_a_gguf_file_is_asked_in_the_files_chat(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(QWEN_SPECIAL)
    path = _write(
        tmp_path,
        _shape(vocab_size=tokenizer.get_vocab_size()),
        vocabulary=byte_level_fields(tokenizer, "qwen2"),
        fields={"tokenizer.chat_template": QWEN_CHAT},
        architecture="qwen2",
    )
    prm = load_prm(_classifier_over(path, "SEQ_CLS", 1), base=path)
    row = prm.encoder().encode(Trajectory(question="What is 3 + 4?", steps=("It is 7.",)))
    text = tokenizer.decode(row.token_ids.tolist(), skip_special_tokens=False)
    assert text.endswith(
        "<|im_end|>\n<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\nIt is 7."
        "<|im_end|>\n"
    )


@pytest.mark.parametrize("begins", [True, False])
def test_a_token_classifier_over_a_gguf_file_begins_as_the_files_texts_do(
    tmp_path: Path, begins: bool
) -> None:
    fields = {**byte_level_fields(TOKENIZER), "bos_token_id": 5, "add_bos_token": begins}
    path = _write(tmp_path, vocabulary=fields)
    options = ReadingOptions(step_separator="\n")
    prm = load_prm(_classifier_over(path, "TOKEN_CLS", 2), reading=options, base=path)
    row = prm.encoder().encode(Trajectory(question="What?", steps=("It is 7.",)))
    assert (row.token_ids[0] == 5) is np.bool_(begins)
