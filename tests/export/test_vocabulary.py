"""Tokenizers that come without tokenizer.json encode as transformers and SentencePiece do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rfprm_export import ExportError
from rfprm_export.vocabulary.folder import FoundTokenizer, open_tokenizer
from rfprm_export.vocabulary.model_proto import PieceKind, SentencePieceModel, parse_model_proto
from rfprm_export.vocabulary.prefix_space import without_prefix_space
from rfprm_export.vocabulary.sentencepiece import sentencepiece_tokenizer
from rfprm_runtime.artifact.manifest import Marker, Prompt, Question, Steps, Template
from rfprm_runtime.prompt.encoding import TrajectoryEncoder, with_template_ids
from rfprm_runtime.rewards import token_offsets
from rfprm_runtime.types import Trajectory
from tokenizer_files import (
    CONTROL,
    ENDING,
    MERGES,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    bpe_pieces,
    byte_level_vocabulary,
    model_proto,
    unigram_pieces,
    write_byte_level,
    write_json,
    write_sentencepiece,
)

TEXTS = [
    "Hello world, hello!",
    "  two  blanks\n\n\n  and lines \r\n\t",
    "def f(x):\n    return x ** 2  # square\n",
    "\\frac{12}{345} + \\sqrt{x_1}",
    "Привет мир, 你好，世界。こんにちは مرحبا 안녕",
    "naïve café e\u0301 ﬁ Å 𝔘",
    "😀👩‍👩‍👧 a\u200bb\u00a0c\ufeff",
    "it's they'LL 12345 6.78 １２",
    "a<|endoftext|>b <s>x</s> <0x41> <unk>",
    "",
]
anything = st.text(alphabet=st.sampled_from("he lo\twrinTS12=<>/s0x4A\n▁é你😀"), max_size=40)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


# Byte-level BPE.


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "GPT2Tokenizer", "Qwen2TokenizerFast"])
def test_vocab_and_merges_encode_as_in_transformers(name: str, tmp_path: Path) -> None:
    from transformers.models.gpt2.tokenization_gpt2 import GPT2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

    theirs = (GPT2Tokenizer if "GPT2" in name else Qwen2Tokenizer)(
        vocab=byte_level_vocabulary(), merges=[tuple(merge.split()) for merge in MERGES]
    )
    found = open_tokenizer(write_byte_level(tmp_path, name), {"model_type": "qwen2"})
    for text in TEXTS:
        assert _ids(found.tokenizer, text) == theirs.encode(text, add_special_tokens=False), text
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
    assert _ids(tokenizer, "<extra_0><|endoftext|>") == [700, 900]
    tokenizer.encode_special_tokens = True
    assert not {700, 900} & set(_ids(tokenizer, "<extra_0><|endoftext|>"))


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


# SentencePiece, beside a slow and obvious twin.


def _twin_of_bpe(model: SentencePieceModel, text: str) -> list[str]:
    """Merges the best pair of neighbours, the leftmost of equal ones, until there is none."""
    scores = {p.text: p.score for p in model.pieces if p.kind is PieceKind.NORMAL}
    symbols = list(text.replace(" ", "▁"))
    while True:
        pairs = [(i, a + b) for i, (a, b) in enumerate(itertools.pairwise(symbols))]
        known = [(-scores[pair], i) for i, pair in pairs if pair in scores]
        if not known:
            break
        place = min(known)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    return _bytes_of_unknown(symbols, scores)


def _twin_of_unigram(model: SentencePieceModel, text: str) -> list[str]:
    """The segmentation with the largest sum of scores."""
    scores = {p.text: p.score for p in model.pieces if p.kind is PieceKind.NORMAL}
    text, unknown = text.replace(" ", "▁"), min(scores.values()) - 10
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for stop in range(1, len(text) + 1):
        options = [
            (best[start][0] + scores.get(text[start:stop], unknown), start)
            for start in range(max(0, stop - 16), stop)
            if text[start:stop] in scores or stop - start == 1
        ]
        total, start = max(options)
        best.append((total, [*best[start][1], text[start:stop]]))
    return _bytes_of_unknown(best[-1][1], scores)


def _bytes_of_unknown(symbols: list[str], scores: dict[str, float]) -> list[str]:
    found: list[str] = []
    for symbol in symbols:
        known = symbol in scores
        found += [symbol] if known else [f"<0x{byte:02X}>" for byte in symbol.encode()]
    return found


@cache
def _model(is_unigram: bool) -> tuple[SentencePieceModel, Tokenizer]:
    pieces = unigram_pieces() if is_unigram else bpe_pieces()
    model = parse_model_proto(model_proto(pieces, kind=1 if is_unigram else 2))
    tokenizer = sentencepiece_tokenizer(model, {})
    tokenizer.encode_special_tokens = True
    return model, tokenizer


@given(text=anything)
@example(text="hello     the\n\n  end <s> <0x41>")
def test_bpe_is_cut_as_the_twin_cuts_it(text: str) -> None:
    model, tokenizer = _model(False)
    assert tokenizer.encode(text).tokens == _twin_of_bpe(model, text)


@given(text=anything)
@example(text="hello     the\n\n  end <s> <0x41>")
def test_unigram_is_cut_as_well_as_the_twin_cuts_it(text: str) -> None:
    """Several ways may be equally good."""
    model, tokenizer = _model(True)
    scores = {p.text: p.score for p in model.pieces if p.kind is PieceKind.NORMAL}
    found, expected = tokenizer.encode(text).tokens, _twin_of_unigram(model, text)
    assert sum(map(scores.__contains__, found)) > 0 or not set(text) & set(scores)
    unknown = min(scores.values()) - 10
    total = sum(scores.get(token, unknown) for token in found)
    assert total == pytest.approx(sum(scores.get(token, unknown) for token in expected))


@pytest.mark.parametrize("is_unigram", [False, True])
@given(text=st.text(max_size=30).filter(lambda text: "▁" not in text))
def test_ids_lead_back_to_the_text(is_unigram: bool, text: str) -> None:
    tokenizer = _model(is_unigram)[1]
    ids = _ids(tokenizer, text)

    def decode(some: list[int]) -> str:
        return str(tokenizer.decode(some, skip_special_tokens=False))

    assert decode(ids) == text
    assert token_offsets(ids, decode)[0] == text


@pytest.mark.parametrize("legacy", [True, False])
def test_sentencepiece_encodes_as_transformers_without_its_prefix(
    legacy: bool, tmp_path: Path
) -> None:
    from transformers.models.llama.tokenization_llama import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    write_sentencepiece(tmp_path, model_proto(bpe_pieces()), legacy=legacy)
    ours = open_tokenizer(tmp_path, {}).tokenizer
    vocabulary = {text: index for index, (text, _, _) in enumerate(bpe_pieces())}
    scores = {text: score for text, score, _ in bpe_pieces()}
    theirs, plain = (
        LlamaTokenizer(
            vocab=vocabulary,
            merges=generate_merges(vocabulary, scores),
            add_prefix_space=prefix,
            legacy=legacy,
        )
        for prefix in (True, False)
    )
    for text in TEXTS:
        assert _ids(ours, text) == plain.encode(text, add_special_tokens=False), text
        # transformers 5 adds no second space and, with legacy, one after each special token.
        if text and not text.startswith(" ") and "<s>" not in text:
            assert _ids(ours, f" {text}") == theirs.encode(text, add_special_tokens=False), text


def test_segments_add_up_to_the_whole_text() -> None:
    """With a space before each word, in the same segment as the word."""
    model, _ = _model(False)
    tokenizer = sentencepiece_tokenizer(model, {})
    prompt = Prompt(
        pieces=(Template(text="<s> the question:\n"), Question(), Template(text="\n"), Steps()),
        step_marker=Marker(token="</s>", id=2),
    )
    encoder = TrajectoryEncoder(
        tokenizer, with_template_ids(prompt, tokenizer), vocab_size=len(model.pieces)
    )
    encoded = encoder.encode(
        Trajectory(question="hello 12", steps=("x = 12", " the end"), response=())
    )
    tokenizer.encode_special_tokens = False
    whole = "<s> the question:\nhello 12\nx = 12</s> the end</s>"
    assert encoded.token_ids.tolist() == _ids(tokenizer, whole)


@pytest.mark.parametrize("is_unigram", [False, True])
@pytest.mark.parametrize("name", ["<s>", "</s>", "<unk>", "<0x41>", "[INST]"])
def test_no_text_becomes_a_control_piece_or_a_byte(name: str, is_unigram: bool) -> None:
    pieces = (unigram_pieces if is_unigram else bpe_pieces)(
        ("[INST]", 0.0, CONTROL), *((text, -3.0, NORMAL) for text in ("[INS", "T]", "<s", "s>"))
    )
    model = parse_model_proto(model_proto(pieces, kind=1 if is_unigram else 2))
    tokenizer = sentencepiece_tokenizer(model, {})
    index = [text for text, _, _ in pieces].index(name)
    assert (index in _ids(tokenizer, f"a{name}b")) == (name != "<0x41>")
    tokenizer.encode_special_tokens = True
    assert index not in _ids(tokenizer, f"a{name}b")


@pytest.mark.parametrize("kind", [1, 2])
def test_a_special_token_that_texts_spell_is_refused(kind: int, tmp_path: Path) -> None:
    pieces = unigram_pieces() if kind == 1 else bpe_pieces()
    entries = {str(len(pieces)): {"content": "€", "special": True}}
    write_sentencepiece(tmp_path, model_proto(pieces, kind=kind), added_tokens_decoder=entries)
    with pytest.raises(ExportError, match="'€' would become the token of that name"):
        open_tokenizer(tmp_path, {})


def test_user_defined_pieces_stay_whole() -> None:
    pieces = bpe_pieces(("<tool>", 0.0, USER_DEFINED), ("▁▁▁", 0.0, USER_DEFINED))
    tokenizer = sentencepiece_tokenizer(parse_model_proto(model_proto(pieces)), {})
    assert tokenizer.encode("the<tool>   x").tokens == ["t", "he", "<tool>", "▁▁▁", "x"]


def test_spaces_collapse_where_the_model_collapses_them() -> None:
    model = parse_model_proto(model_proto(bpe_pieces(), collapse=True))
    tokenizer = sentencepiece_tokenizer(model, {})
    assert tokenizer.encode("x    the \n x ").tokens == ["x", "▁the", "▁", "<0x0A>", "▁x", "▁"]


def test_a_model_without_bytes_has_an_unknown_token() -> None:
    pieces = bpe_pieces(bytes_too=False)
    model = parse_model_proto(model_proto(pieces, byte_fallback=False))
    assert sentencepiece_tokenizer(model, {}).encode("x你好x").tokens == ["x", "<unk>", "x"]


def test_control_pieces_take_the_names_that_files_beside_them_give(tmp_path: Path) -> None:
    pieces = bpe_pieces(("<reserved>", 0.0, CONTROL))
    entries = {
        str(len(pieces) - 1): {"content": "<extra_0>", "special": True},
        str(len(pieces)): {"content": "[PAD]", "special": True},
    }
    write_sentencepiece(tmp_path, model_proto(pieces), added_tokens_decoder=entries)
    tokenizer = open_tokenizer(tmp_path, {}).tokenizer
    assert _ids(tokenizer, "<extra_0>[PAD]") == [len(pieces) - 1, len(pieces)]
    assert tokenizer.token_to_id("<reserved>") is None


# tokenizer.json of models that write a space before every text.


def _metaspace() -> Iterator[tuple[Any, Any, Any]]:
    """Normalizer, pre-tokenizer and decoder, in the forms that files have."""
    replace, back = normalizers.Replace(" ", "▁"), decoders.Replace("▁", " ")
    whole = [back, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    yield (
        normalizers.Sequence([normalizers.Prepend("▁"), replace]),
        None,
        decoders.Sequence(whole),
    )
    for scheme in ("always", "first"):
        metaspace = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        yield None, metaspace, decoders.Sequence(whole)
        nested = pre_tokenizers.Sequence([pre_tokenizers.Sequence([metaspace])])
        yield normalizers.Sequence([normalizers.NFC()]), nested, decoders.Metaspace()


@pytest.mark.parametrize("stages", list(_metaspace()))
def test_a_text_gets_no_space_in_front(stages: tuple[Any, Any, Any]) -> None:
    expected = _model(False)[1]
    tokenizer = Tokenizer(expected.model)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = stages
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    assert tokenizer.encode("the").tokens == ["▁the"]
    changed = without_prefix_space(tokenizer)
    assert changed.encode("the  end").tokens == expected.encode("the  end").tokens
    assert changed.decode(_ids(changed, " the")) == " the"
    assert changed.token_to_id("<s>") == 1
    assert without_prefix_space(changed) is changed


def test_a_byte_level_tokenizer_gets_no_space_in_front() -> None:
    tokenizer = Tokenizer(models.BPE(byte_level_vocabulary(), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert tokenizer.encode("a").tokens == ["Ġ", "a"]
    assert without_prefix_space(tokenizer).encode("a").tokens == ["a"]


def test_the_folders_own_tokenizer_comes_first(tmp_path: Path) -> None:
    write_byte_level(tmp_path, "GPT2Tokenizer")
    tokenizer = open_tokenizer(tmp_path, {}).tokenizer
    tokenizer.add_special_tokens(["<only here>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = open_tokenizer(tmp_path, {})
    assert found.origin is None
    assert found.tokenizer.token_to_id("<only here>") is not None


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
