"""Tokenizers that come without tokenizer.json are converted as their files say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfprm_export import ExportError
from rfprm_export.vocabulary.folder import FoundTokenizer, open_tokenizer
from rfprm_export.vocabulary.model_proto import parse_model_proto
from tokenizer_files import (
    ENDING,
    MERGES,
    NORMAL,
    TEXTS,
    UNUSED,
    bpe_pieces,
    byte_level_vocabulary,
    ids_of,
    model_proto,
    unigram_pieces,
    write_byte_level,
    write_json,
    write_sentencepiece,
)


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "GPT2Tokenizer", "Qwen2TokenizerFast"])
def test_vocab_and_merges_encode_as_in_transformers(name: str, tmp_path: Path) -> None:
    from transformers.models.gpt2.tokenization_gpt2 import GPT2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

    theirs = (GPT2Tokenizer if "GPT2" in name else Qwen2Tokenizer)(
        vocab=byte_level_vocabulary(), merges=[tuple(merge.split()) for merge in MERGES]
    )
    found = open_tokenizer(write_byte_level(tmp_path, name), {"model_type": "qwen2"})
    for text in TEXTS:
        assert ids_of(found.tokenizer, text) == theirs.encode(text, add_special_tokens=False), text
    assert found.tokenizer.get_vocab() == theirs.get_vocab()
    assert found.origin is not None
    assert "guessed" not in found.origin


def test_the_rules_decide_how_digits_and_accents_are_cut(tmp_path: Path) -> None:
    """Or the comparison with transformers would show nothing."""
    tokens = {}
    for name in ("Qwen2Tokenizer", "GPT2Tokenizer"):
        tokenizer = open_tokenizer(write_byte_level(tmp_path, name), {}).tokenizer
        tokens[name] = [tokenizer.encode(text).tokens for text in ("12", "e\u0301", "x\n\n")]
    assert tokens["Qwen2Tokenizer"][0] == ["1", "2"]
    assert tokens["GPT2Tokenizer"][0] == ["12"]
    assert all(a != b for a, b in zip(*tokens.values(), strict=True) if a != ["x", "ĊĊ"])


def test_older_files_of_added_tokens_mean_the_same(tmp_path: Path) -> None:
    size = len(byte_level_vocabulary())
    entries = {
        size: ENDING,
        size + 1: {**ENDING, "content": "<extra_0>"},
        size + 2: {"content": "<tool>", "special": False},
    }
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        folder.mkdir()
    write_byte_level(new, "Qwen2Tokenizer", added_tokens_decoder=entries)
    write_byte_level(old, "Qwen2Tokenizer", added_tokens_decoder=None)
    write_json(old / "added_tokens.json", {e["content"]: i for i, e in entries.items()})
    named = {"eos_token": ENDING, "additional_special_tokens": ["<extra_0>"], "pad_token": None}
    write_json(old / "special_tokens_map.json", named)
    assert open_tokenizer(new, {}).tokenizer.to_str() == open_tokenizer(old, {}).tokenizer.to_str()


def test_added_tokens_keep_their_ids_where_ids_are_left_out(tmp_path: Path) -> None:
    entries = {"900": ENDING, "700": {"content": "<extra_0>", "special": True}}
    write_byte_level(tmp_path, "Qwen2Tokenizer", added_tokens_decoder=entries)
    tokenizer = open_tokenizer(tmp_path, {}).tokenizer
    assert ids_of(tokenizer, "<extra_0><|endoftext|>") == [700, 900]
    tokenizer.encode_special_tokens = True
    assert not {700, 900} & set(ids_of(tokenizer, "<extra_0><|endoftext|>"))


def test_a_role_without_an_id_is_no_token(tmp_path: Path) -> None:
    write_byte_level(tmp_path, "GPT2Tokenizer", pad_token="[PAD]")
    assert open_tokenizer(tmp_path, {}).tokenizer.token_to_id("[PAD]") is None


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_what_was_guessed_is_said(kind: str, tmp_path: Path) -> None:
    write_byte_level(tmp_path, "x")
    (tmp_path / "tokenizer_config.json").unlink()
    found = open_tokenizer(tmp_path, {"model_type": kind})
    assert found.origin == (
        f"vocab.json and merges.txt by the rules of Qwen2, guessed from the model_type '{kind}'"
    )
    known = open_tokenizer(tmp_path, {"model_type": kind, "tokenizer_class": "GPT2Tokenizer"})
    assert known.origin == "vocab.json and merges.txt by the rules of GPT-2"


# What is refused.


def _byte_level(**config: Any) -> Callable[[Path], FoundTokenizer]:
    name = config.pop("name", "Qwen2Tokenizer")
    return lambda folder: open_tokenizer(write_byte_level(folder, name, **config), {})


def _merges(content: bytes) -> Callable[[Path], FoundTokenizer]:
    def run(folder: Path) -> FoundTokenizer:
        write_byte_level(folder, "Qwen2Tokenizer")
        (folder / "merges.txt").write_bytes(content)
        return open_tokenizer(folder, {})

    return run


def _vocabulary(content: Any) -> Callable[[Path], FoundTokenizer]:
    def run(folder: Path) -> FoundTokenizer:
        write_byte_level(folder, "Qwen2Tokenizer")
        write_json(folder / "vocab.json", content)
        return open_tokenizer(folder, {})

    return run


def _proto(content: bytes, **config: Any) -> Callable[[Path], FoundTokenizer]:
    return lambda folder: open_tokenizer(write_sentencepiece(folder, content, **config), {})


def _added(*entries: tuple[str, Any]) -> dict[str, Any]:
    return {"added_tokens_decoder": dict(entries)}


SPM = model_proto(bpe_pieces())


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (lambda folder: open_tokenizer(folder, {}), r"has no tokenizer: expected tokenizer\.json"),
        (_byte_level(name="BertTokenizer"), r"class 'BertTokenizer', .*'Qwen2Tokenizer'\].*save"),
        (_byte_level(name="LlamaTokenizer"), "class 'LlamaTokenizer', which cannot be converted"),
        (_byte_level(name=None), "class None, guessed from the model_type None"),
        (_merges(b""), "has no merges"),
        (_merges(b"#version: 0.2\nh e x\n"), "has the merge 'h e x', expected two tokens"),
        (_merges(b"h e\nhe\n"), "has the merge 'he', expected two tokens"),
        (_merges(b"\xff e\n"), "cannot be read .*utf-8"),
        (_merges(b"h e\n#version Q\n"), "cannot be converted .*#version"),
        (_vocabulary({"a": -1}), "gives 'a' the id -1"),
        (_vocabulary({"a": True}), "gives 'a' the id True"),
        (_vocabulary({"a": 2**40}), "gives 'a' the id 1099511627776"),
        (_vocabulary({"a": 1, "b": 1}), "gives two tokens the same id"),
        (_vocabulary([]), "is not a JSON object"),
        (
            _byte_level(added_tokens_decoder=[1]),
            "the added_tokens_decoder of the class list, expected",
        ),
        (_byte_level(**_added(("x", ENDING))), "an added token with the id 'x'"),
        (_byte_level(**_added(("-1", ENDING))), "an added token with the id '-1'"),
        (_byte_level(**_added(("9", 3))), "an added token that is none"),
        (_byte_level(**_added(("900", {}))), "content: is missing"),
        (_byte_level(**_added(("900", {**ENDING, "special": "no"}))), "special: expected"),
        (_byte_level(**_added(("900", ENDING), ("901", ENDING))), "an added token with two ids"),
        (
            _byte_level(**_added(("9", ENDING))),
            "has the id 9, but the vocabulary gives the id 9 to",
        ),
        (_byte_level(**_added(("900", {"content": "hello"}))), "gives it the id 26"),
        (_proto(b""), "has no pieces"),
        (_proto(SPM[:-3]), "cannot be read as a SentencePiece model: .*ends at byte"),
        (_proto(b"IQ== 0\nIg== 1\n"), "cannot be read as a SentencePiece model"),  # tiktoken's
        (_proto(model_proto(bpe_pieces(), kind=3)), "model_type 3, expected unigram"),
        (_proto(model_proto(bpe_pieces(), suffix=True)), "writes spaces after words"),
        (_proto(model_proto(bpe_pieces(("he", 0.0, NORMAL)))), "has the piece 'he' twice"),
        (_proto(model_proto(bpe_pieces(("hex", 0.0, UNUSED)))), "forbids the piece 'hex'"),
        (_proto(model_proto(bpe_pieces(("w" * 300, 0.0, NORMAL)))), "has 300 characters"),
        (_proto(model_proto(bpe_pieces(("w", float("nan"), NORMAL)))), "the score nan"),
        (_proto(model_proto(bpe_pieces(("ww", 0.0, 9)))), "its piece .* is none"),
        (_proto(model_proto(bpe_pieces(), charsmap=b"\1\0\0\0ab")), "cannot be converted"),
        (_proto(SPM, tokenizer_class="XLMRobertaTokenizer"), "class 'XLMRobertaTokenizer'"),
        (_proto(SPM, **_added(("262", ENDING))), "gives the id 262 to"),
        (_proto(model_proto(unigram_pieces(), kind=1), **_added(("900", ENDING))), "id 3.. free"),
    ],
)
def test_other_tokenizers_are_refused(
    run: Callable[[Path], FoundTokenizer], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=problem):
        run(tmp_path)


def test_a_field_that_comes_twice_counts_as_its_last() -> None:
    """As in protobuf, so that SentencePiece reads the same."""
    content = model_proto(bpe_pieces(), prefix=False) + model_proto([], prefix=True)
    assert parse_model_proto(content).adds_prefix
