"""A tokenizer from the pieces of a SentencePiece model.

SentencePiece writes a space (▁) before every text, so that a word at the start is the same token as
elsewhere. This library encodes each segment of a prompt on its own, and a segment is not the start
of a text. So the space is left out here, whatever the model, its ``legacy`` and its
``add_prefix_space`` say, and the prompt spells it. What a family's preset must do, where
:attr:`~.model_proto.SentencePieceModel.adds_prefix` is true:

- The first text after the beginning, and with ``legacy`` the first after each special token, begins
  with a space: ``"<s> You are"``, not ``"<s>You are"``.
- A space belongs to the word after it, so it must be in the same segment as that word. A template
  may end in a space only before a marker. Where a question or a step comes after one, the space is
  part of that text (``"Step 1:"``, then ``" 3 + 4 = 7"``); a template ``" "`` before it would be a
  token of its own, which the model never saw there.

The ids are those of SentencePiece but in two cases of unigram models: where two ways to cut a text
are equally good, and in a text that spells a control piece or a byte (``<0x41>``), which is cut
behind its first character.

Sources: ``SpmConverter`` of transformers 5.24, which is followed where it does what SentencePiece
does, and SentencePiece 0.2 elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rfprm_export import ExportError
from rfprm_export.vocabulary.added_tokens import Added, add_tokens, check_unspellable, placed
from rfprm_export.vocabulary.model_proto import Piece, PieceKind, SentencePieceModel
from rfprm_runtime.ground.arguments import shown

SPACE = "▁"
_WAY_OUT = "save the model with a fast tokenizer (tokenizer.json)"


def sentencepiece_tokenizer(model: SentencePieceModel, added: Added) -> Tokenizer:
    """``added`` are the tokens that files beside the model add, or give another name or other
    flags. Raises :class:`ExportError` for a model that the tokenizers library cannot follow, and
    the library's own errors for damaged tables."""
    if model.spaces_follow:
        raise ExportError(f"the model writes spaces after words, which is not read; {_WAY_OUT}")
    pieces = _renamed(model.pieces, added)
    added = {**_own_tokens(pieces), **added}
    vocabulary = placed(_ids(pieces), added)
    build = _unigram if model.is_unigram else _bpe
    tokenizer = Tokenizer(build(model, pieces, vocabulary))
    tokenizer.normalizer = _normalizer(model)
    reserved = _reserved(vocabulary, pieces, added)
    if model.is_unigram and reserved:
        tokenizer.pre_tokenizer = _cut_reserved(reserved)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    add_tokens(tokenizer, added)
    check_unspellable(tokenizer, reserved)
    return tokenizer


def _renamed(pieces: tuple[Piece, ...], added: Added) -> tuple[Piece, ...]:
    """Models use control pieces under names of their own. A piece that texts become keeps its."""
    names = {
        index: token.content
        for index, token in added.items()
        if index < len(pieces) and pieces[index].kind is not PieceKind.NORMAL
    }
    return tuple(
        Piece(names.get(index, piece.text), piece.score, piece.kind)
        for index, piece in enumerate(pieces)
    )


def _own_tokens(pieces: tuple[Piece, ...]) -> Added:
    """Control pieces are special. User-defined ones are found in the text after its characters
    were replaced, as SentencePiece does."""
    found = {}
    for index, piece in enumerate(pieces):
        if piece.kind in (PieceKind.CONTROL, PieceKind.UNKNOWN):
            found[index] = AddedToken(piece.text, special=True, normalized=False)
        elif piece.kind is PieceKind.USER_DEFINED:
            found[index] = AddedToken(piece.text, special=False, normalized=True)
    return found


def _ids(pieces: tuple[Piece, ...]) -> dict[str, int]:
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    if len(ids) < len(pieces):
        twice = next(p.text for i, p in enumerate(pieces) if ids[p.text] != i)
        raise ExportError(f"the model has the piece {shown(twice)} twice; download it again")
    return ids


def _bpe(
    model: SentencePieceModel, pieces: tuple[Piece, ...], vocabulary: Mapping[str, int]
) -> models.BPE:
    unknown = [piece.text for piece in pieces if piece.kind is PieceKind.UNKNOWN]
    return models.BPE(
        dict(vocabulary),
        _merges(pieces),
        unk_token=unknown[0] if unknown else None,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _merges(pieces: tuple[Piece, ...]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, the best piece first.

    Only normal pieces take part, so that no text can be merged into a control piece.
    """
    ids = {piece.text: i for i, piece in enumerate(pieces) if piece.kind is PieceKind.NORMAL}
    ranked = []
    for index, piece in enumerate(pieces):
        if piece.kind is PieceKind.NORMAL:
            ranked += [(-piece.score, index, *pair) for pair in _halves(piece.text, ids)]
        elif piece.kind is PieceKind.UNUSED and any(_halves(piece.text, ids)):
            raise ExportError(
                f"the model forbids the piece {shown(piece.text)}, which texts can be merged into; "
                f"{_WAY_OUT}"
            )
    ranked.sort(key=lambda one: (one[0], one[1], len(one[2])))
    return [(left, right) for _, _, left, right in ranked]


def _halves(text: str, ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for place in range(1, len(text)):
        if text[:place] in ids and text[place:] in ids:
            yield text[:place], text[place:]


def _unigram(
    model: SentencePieceModel, pieces: tuple[Piece, ...], vocabulary: Mapping[str, int]
) -> models.Unigram:
    """The library numbers the pieces by their places, so they must fill them."""
    texts = {index: text for text, index in vocabulary.items()}
    missing = next((index for index in range(len(texts)) if index not in texts), None)
    if missing is not None:
        raise ExportError(f"the added tokens leave the id {missing} free; {_WAY_OUT}")
    scores = [*(piece.score for piece in pieces), *[0.0] * (len(texts) - len(pieces))]
    listed = [(texts[index], score) for index, score in enumerate(scores)]
    return models.Unigram(listed, model.unknown_id, model.byte_fallback)


def _cut_reserved(names: Iterable[str]) -> pre_tokenizers.PreTokenizer:
    """Cuts a text that spells a reserved piece behind its first character: a unigram model takes
    any piece that it finds, a control piece too."""
    rests: dict[str, list[str]] = {}
    for name in names:
        rests.setdefault(name[0], []).append(re.escape(name[1:]))
    first = (f"{re.escape(one)}(?={'|'.join(some)})" for one, some in rests.items())
    return pre_tokenizers.Split(Regex("|".join(first)), behavior="isolated")


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    """What SentencePiece does to a text, without the space in front. Nor are spaces at the ends
    removed: those are not the ends of the text."""
    stages: list[normalizers.Normalizer] = []
    if model.charsmap:
        stages.append(normalizers.Precompiled(model.charsmap))
    if model.collapses_spaces:
        stages.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.escapes_spaces:
        stages.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(stages)


def _reserved(vocabulary: Mapping[str, int], pieces: tuple[Piece, ...], added: Added) -> list[str]:
    """The tokens that no text is cut into: neither learned pieces, nor added plain ones."""
    plain = {index for index, piece in enumerate(pieces) if piece.kind is PieceKind.NORMAL}
    plain |= {index for index, token in added.items() if not token.special}
    return [text for text, index in vocabulary.items() if index not in plain]
