"""Keeps a tokenizer from writing a space before every text.

:mod:`.sentencepiece` says why, and what prompts do instead. A ``tokenizer.json`` says in one of
four ways that there is such a space, and this undoes each.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

_SPACES = (" ", "▁")
_Stage = dict[str, Any]


def without_prefix_space(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer if it writes none. The decoder, too, leaves a leading space alone."""
    stages = (tokenizer.normalizer, tokenizer.pre_tokenizer)
    if not any(_changed(json.loads(stage.__getstate__()))[1] for stage in stages if stage):
        return tokenizer
    content: _Stage = json.loads(tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        content[part], _ = _changed(content[part])
    return Tokenizer.from_str(json.dumps(content))


def _changed(stage: Any) -> tuple[Any, bool]:
    """A stage that adds, or removes, nothing in front of a text, None if it did nothing else; and
    whether that is another one."""
    if not isinstance(stage, dict):
        return stage, False
    if _is_prefix(stage):
        return None, True
    changed, is_other = dict(stage), False
    for name, inner in stage.items():
        if isinstance(inner, list) and all(isinstance(one, dict) for one in inner):
            found = [_changed(one) for one in inner]
            changed[name] = [one for one, _ in found if one is not None]
            is_other |= any(other for _, other in found)
    switched = {name: off for name, off in _off(stage).items() if stage.get(name) != off}
    return {**changed, **switched}, is_other or bool(switched)


def _is_prefix(stage: _Stage) -> bool:
    """Whether it only adds a space in front or, in a decoder, removes one there."""
    if stage.get("type") == "Prepend":
        return stage.get("prepend") in _SPACES
    return stage.get("type") == "Strip" and stage.get("content") == " " and stage.get("stop") == 0


def _off(stage: _Stage) -> _Stage:
    if stage.get("type") == "Metaspace":
        return {"prepend_scheme": "never"}
    return {"add_prefix_space": False} if stage.get("type") == "ByteLevel" else {}
