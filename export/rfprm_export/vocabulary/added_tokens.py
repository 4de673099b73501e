"""The added tokens of a tokenizer: with ids of their own, and matched before the vocabulary is.

Sources: ``tokenizer_config.json`` (``added_tokens_decoder``), and its older forms
``added_tokens.json`` and ``special_tokens_map.json``, as transformers writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from tokenizers import AddedToken, Tokenizer

from rfprm_export import ExportError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.ground.strict_json import read_json_object
from rfprm_runtime.ground.validated import Validated

CONFIG_NAME = "tokenizer_config.json"
ADDED_NAME = "added_tokens.json"
SPECIAL_NAME = "special_tokens_map.json"
MAX_BYTES = 64 * 2**20
"""Of a JSON file of a tokenizer: ten times the largest published one."""
_AGAIN = "download the model again"
_LARGEST_ID = 2**31
_LISTS = ("additional_special_tokens", "extra_special_tokens")

Added = dict[int, AddedToken]
"""By id."""


class _Entry(Validated):
    """A token of ``added_tokens_decoder``."""

    model_config = ConfigDict(extra="ignore", strict=True)
    refusal = ExportError

    content: str = Field(min_length=1)
    special: bool = False
    normalized: bool | None = None
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    def token(self, *, special: bool) -> AddedToken:
        return AddedToken(
            self.content,
            special=special,
            normalized=not special if self.normalized is None else self.normalized,
            lstrip=self.lstrip,
            rstrip=self.rstrip,
            single_word=self.single_word,
        )


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of ``folder``; an empty one if there is no such file. Raises
    :class:`ExportError`."""
    if not holds_file(folder, name):
        return {}
    path = file_in(folder, name, refusal=ExportError, way_out=_AGAIN)
    return read_json_object(path, refusal=ExportError, way_out=_AGAIN, max_bytes=MAX_BYTES)


def read_added_tokens(folder: Path, vocabulary: Mapping[str, int], usual: Iterable[str]) -> Added:
    """The added tokens of the model in ``folder``.

    A token that the files name as special (``eos_token`` …), or that is special in every model of
    the kind (``usual``), is one if any file gives it an id, ``vocabulary`` too. One without an id
    is left out: the model has no row for it. Raises :class:`ExportError`.
    """
    config = read_object(folder, CONFIG_NAME)
    special = {*_named(config), *_named(read_object(folder, SPECIAL_NAME)), *usual}
    found: Added = {}
    for index, entry in _entries(folder, config):
        if index in found:
            raise ExportError(f"{folder} has two added tokens with the id {index}; {_AGAIN}")
        found[index] = entry.token(special=entry.special or entry.content in special)
    contents = {token.content for token in found.values()}
    if len(contents) < len(found):
        raise ExportError(f"{folder} has an added token with two ids; {_AGAIN}")
    for content in sorted(special & vocabulary.keys() - contents):
        index = vocabulary[content]
        if index in found:
            raise ExportError(
                f"{folder} gives the id {index} to {shown(content)} and to "
                f"{shown(found[index].content)}; {_AGAIN}"
            )
        found[index] = AddedToken(content, special=True, normalized=False)
    return found


def _entries(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[int, _Entry]]:
    """As transformers does: ``added_tokens.json`` is for configs without a list."""
    listed = config.get("added_tokens_decoder")
    if listed is not None:
        if not isinstance(listed, dict):
            raise ExportError(
                f"{folder / CONFIG_NAME} has the added_tokens_decoder {shown(listed)}, expected an "
                f"object; {_AGAIN}"
            )
        for index, entry in listed.items():
            yield _checked_id(index, folder / CONFIG_NAME), _entry(entry, folder / CONFIG_NAME)
        return
    for content, index in read_object(folder, ADDED_NAME).items():
        place = folder / ADDED_NAME
        yield _checked_id(index, place), _entry({"content": content}, place)


def _entry(content: Any, place: Path) -> _Entry:
    try:
        return _Entry.model_validate(content)
    except ExportError as error:
        raise ExportError(f"{place} has an added token that is none: {error}; {_AGAIN}") from None


def _checked_id(index: Any, place: Path) -> int:
    """An id, which is a text where it is the name in an object."""
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 12:
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < _LARGEST_ID:
        raise ExportError(f"{place} has an added token with the id {shown(index)}; {_AGAIN}")
    return index


def _named(fields: Mapping[str, Any]) -> set[str]:
    """The tokens that a config calls by a role, such as ``eos_token``, all of them special."""
    roles = [value for name, value in fields.items() if name.endswith("_token")]
    for name in _LISTS:
        listed = fields.get(name)
        roles += listed.values() if isinstance(listed, dict) else listed or []
    contents = (role.get("content") if isinstance(role, dict) else role for role in roles)
    return {content for content in contents if isinstance(content, str) and content}


def placed(vocabulary: Mapping[str, int], added: Added) -> dict[str, int]:
    """The vocabulary with the added tokens at their ids: the tokenizers library would number those
    that it does not know itself, in order, whatever id they have. Raises :class:`ExportError`."""
    tokens = dict(vocabulary)
    owners = {index: token for token, index in tokens.items()}
    for index, token in added.items():
        known, owner = tokens.get(token.content, index), owners.get(index, token.content)
        if known != index or owner != token.content:
            found = f"the id {known}" if known != index else f"the id {index} to {shown(owner)}"
            raise ExportError(
                f"the added token {shown(token.content)} has the id {index}, but the vocabulary "
                f"gives {'it ' if known != index else ''}{found}; {_AGAIN}"
            )
        tokens[token.content] = index
    return tokens


def add_tokens(tokenizer: Tokenizer, added: Added) -> None:
    """Add tokens that are in the model's vocabulary. Raises :class:`ExportError` if one gets
    another id than its own."""
    tokenizer.add_tokens([added[index] for index in sorted(added)])
    for index, token in added.items():
        found = tokenizer.token_to_id(token.content)
        if found != index:
            raise ExportError(
                f"the added token {shown(token.content)} has the id {index}, but the tokenizers "
                f"library gives it {found}; {_AGAIN}"
            )


def check_unspellable(tokenizer: Tokenizer, reserved: Iterable[str]) -> None:
    """Raises :class:`ExportError` if a text could spell one of the ``reserved`` tokens where
    special tokens are read as plain text, as those of users are."""
    before, tokenizer.encode_special_tokens = tokenizer.encode_special_tokens, True
    for token in reserved:
        ids = tokenizer.encode(token, add_special_tokens=False).ids
        if tokenizer.token_to_id(token) in ids:
            raise ExportError(
                f"the text {shown(token)} would become the token of that name, which no text may; "
                "save the tokenizer as tokenizer.json"
            )
    tokenizer.encode_special_tokens = before
