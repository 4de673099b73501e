"""A character without a token is an error, in every room that encodes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rfprm_runtime import InvalidTrajectoryError, Scorer, TokenizerMismatchError, Trajectory
from rfprm_runtime.backends.fake import FakeBackend
from rfprm_runtime.prompt.alphabet import Alphabet
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.prompt.tokenizer_file import check_tokenizer, parse_tokenizer, tokenizer_errors
from tiny_models import SPECIAL_TOKENS, byte_tokenizer, tiny_manifest

# The bytes that SmolLM2's vocabulary lacks.
MISSING = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)]
LOST = ["\x04", "\x06", "\x13", "\x14", "\x16", "\x1d", "\U00040000"]


def _lossy_tokenizer() -> Tokenizer:
    """Byte-level, without tokens for the bytes in MISSING."""
    byte_of = {token: number for number, token in enumerate(_bytes_in_order())}
    tokens = [token for token, number in byte_of.items() if number not in MISSING]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def _bytes_in_order() -> list[str]:
    """The character that stands for each byte: printable ones are themselves."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(number) if number in own else chr(next(others)) for number in range(256)]


def _scorer() -> Scorer:
    tokenizer = _lossy_tokenizer()
    manifest = tiny_manifest(tokenizer)
    size = manifest.backbone.vocab_size
    encoder = TrajectoryEncoder(tokenizer, manifest.prompt, vocab_size=size)
    return Scorer(manifest, encoder, FakeBackend(manifest.head.num_labels))


@pytest.mark.parametrize("character", LOST)
@pytest.mark.parametrize("part", ["question", "step", "response"])
@pytest.mark.parametrize("around", ["", "text around"])
def test_a_character_without_a_token_is_an_error(character: str, part: str, around: str) -> None:
    if character.isspace() and not around:
        return  # a blank text, which is refused earlier
    text = f"{around}{character}"
    fields: dict[str, Any] = {"question": "q", "steps": ["ok", "fine"], "response": ["r"]}
    fields |= {"question": {"question": text}, "step": {"steps": ["ok", text]}}.get(
        part, {"response": ["r", text]}
    )
    named = "step 1 .from 0." if part == "step" else "the text"
    with pytest.raises(InvalidTrajectoryError, match=rf"{named}.* holds .*U\+{ord(character):04X}"):
        _scorer().score(**fields)


def test_only_the_trace_with_the_character_fails() -> None:
    traces = [Trajectory(question="q", steps=[step]) for step in ("a", "b\x13", "\x04", "c")]
    found = _scorer().score_batch(traces, on_error="return")
    assert [isinstance(item, InvalidTrajectoryError) for item in found] == [
        False,
        True,
        True,
        False,
    ]


def test_a_session_stays_as_it_was() -> None:
    scorer = _scorer()
    with pytest.raises(InvalidTrajectoryError, match=r"U\+0013"):
        scorer.session("q\x13")
    session = scorer.session("q")
    session.extend(["one"])
    with pytest.raises(InvalidTrajectoryError, match=r"step 0 .from 0. holds"):
        session.extend(["two\x13"])
    with pytest.raises(InvalidTrajectoryError, match=r"U\+0013"):
        session.score(["r\x13"])
    assert session.steps == ("one",)
    [error] = scorer.extend_sessions([session], [["\x14"]], on_error="return")
    assert isinstance(error, InvalidTrajectoryError)


def test_a_long_trace_in_windows_is_checked_too() -> None:
    steps = ["a step " * 20] * 9
    scorer = _scorer()
    assert scorer.score("q", steps, overflow="window").windowed_from is not None
    with pytest.raises(InvalidTrajectoryError, match="step 8"):
        scorer.score("q", [*steps[:8], "last\x16"], overflow="window")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_without_lost_characters_decodes_to_itself(text: str) -> None:
    tokenizer = _lossy_tokenizer()
    place = Alphabet(tokenizer).first_lost(text)
    decoded = tokenizer.decode(tokenizer.encode(text).ids)
    assert (decoded == text) == (place is None)
    if place is not None:
        before = tokenizer.decode(tokenizer.encode(text[:place]).ids)
        assert before == text[:place]


def test_a_whole_vocabulary_loses_nothing() -> None:
    alphabet = Alphabet(byte_tokenizer())
    assert alphabet.first_lost("".join(map(chr, range(0x3000)))) is None
    assert alphabet.first_lost("\ufffd\ue000\U0010ffff") is None


def test_white_space_between_words_may_be_dropped_on_purpose() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = Alphabet(tokenizer)
    assert alphabet.first_lost("a \n\x1d a") is None
    assert alphabet.first_lost("a é") is None  # the tokenizer has a token for what it does not know
    tokenizer.normalizer = normalizers.Replace(Regex("\x07"), "")
    assert Alphabet(tokenizer).first_lost("a \x07") == 2


def _with(**changes: Any) -> bytes:
    content = json.loads(byte_tokenizer().to_str())
    content["model"] |= changes.pop("model", {})
    return json.dumps({**content, **changes}).encode()


def _parsed(content: bytes) -> Tokenizer:
    return parse_tokenizer(content, "t.json", refusal=TokenizerMismatchError, way_out="again")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": {"dropout": 0.1}}, "encodes at random"),
        ({"model": {"continuing_subword_prefix": "é"}}, "cannot be read"),  # a panic
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "cannot be read"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 2000}}, "2001 times longer"),
        (
            {"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 2000}},
            "decoder of t.json can make a text 2000 times longer",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_trusted_with_text_is_refused(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TokenizerMismatchError, match=problem):
        _parsed(_with(**changes))


def test_stages_multiply() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("a", "aa")] * 10)
    check_tokenizer(tokenizer, "t", refusal=TokenizerMismatchError)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("a", "aa")] * 11)
    with pytest.raises(TokenizerMismatchError, match="2048 times longer"):
        check_tokenizer(tokenizer, "t", refusal=TokenizerMismatchError)


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        {"type": "FixedLength", "length": 0},
        # Regular expressions end at a limit of tries, in a panic.
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    ],
)
def test_a_panic_of_the_tokenizer_is_an_error_of_ours(pre_tokenizer: dict[str, Any]) -> None:
    tokenizer = _parsed(_with(pre_tokenizer=pre_tokenizer))
    manifest = tiny_manifest(byte_tokenizer())
    size = manifest.backbone.vocab_size
    prompt = manifest.prompt.model_copy(
        update={"pieces": tuple(p for p in manifest.prompt.pieces if p.kind != "template")}
    )
    trace = Trajectory(question="q", steps=["a" * 30 + "b"])
    with pytest.raises(TokenizerMismatchError, match="the tokenizer fails"):
        TrajectoryEncoder(tokenizer, prompt, vocab_size=size).encode(trace)


def test_an_interrupt_is_not_taken_for_a_panic() -> None:
    guard = tokenizer_errors("x", refusal=TokenizerMismatchError, way_out="y")
    with pytest.raises(KeyboardInterrupt), guard:
        raise KeyboardInterrupt


def test_an_id_beyond_the_vocabulary_is_an_error() -> None:
    """The number of tokens is right, their ids are not."""
    content = json.loads(byte_tokenizer().to_str())
    content["model"]["vocab"]["z"] = 5000
    manifest = tiny_manifest(byte_tokenizer())
    size = manifest.backbone.vocab_size
    encoder = TrajectoryEncoder(
        _parsed(json.dumps(content).encode()), manifest.prompt, vocab_size=size
    )
    with pytest.raises(TokenizerMismatchError, match="gives a text the id 5000"):
        encoder.encode(Trajectory(question="q", steps=["z"]))
