"""Names of tensors that were saved from inside a wrapper: of DDP, torch.compile, PEFT or TRL.

A wrapper puts its name before every tensor. What all tensors share says nothing and is taken off;
what only some have says that two things were mixed. Knows no models.
"""

from __future__ import annotations

from collections.abc import Iterable

from rfprm_export import ExportError
from rfprm_export.stored_weights import StoredWeights

_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "pretrained_model.")
# TRL's AutoModelForCausalLMWithValueHead keeps its own head beside the model that it wraps.
_BESIDE = {"pretrained_model.": "v_head."}
# Inside a name: what cannot be taken off without knowing the module.
_INSIDE = {
    "lora_": "an adapter that is not merged",
    "base_layer.": "an adapter that is not merged",
    "modules_to_save.": "an adapter that is not merged",
    "_orig_mod.": "a part that was compiled by torch.compile",
    "_fsdp_wrapped_module.": "a part that FSDP wrapped",
    "_checkpoint_wrapped_module.": "a part that activation checkpointing wrapped",
}
_WAYS_OUT = "save the plain model again (PEFT: model.merge_and_unload(); others: the inner module)"


def without_wrappers(weights: StoredWeights, place: str) -> StoredWeights:
    """The same tensors by the names that they have in the model itself.

    Raises :class:`ExportError` if some of them have a wrapper's name and others have not, or if
    they are those of a model with an unmerged adapter.
    """
    for name in weights:
        for part, what in _INSIDE.items():
            if f".{part}" in f".{_bare(name)}":
                raise ExportError(f"{place} holds {name[:120]!r}, of {what}; {_WAYS_OUT}")
    return _stripped(weights, place, _WRAPPERS)


def without_outer_wrappers(weights: StoredWeights, place: str) -> StoredWeights:
    """The tensors of an adapter's file, whose names PEFT puts a prefix before, without what was put
    before that. Raises :class:`ExportError` as :func:`without_wrappers` does."""
    return _stripped(weights, place, _WRAPPERS[:2])


def _bare(name: str) -> str:
    """``name`` without the wrappers before it, whichever they are."""
    while wrapper := next(filter(name.startswith, _WRAPPERS), None):
        name = name.removeprefix(wrapper)
    return name


def _stripped(weights: StoredWeights, place: str, wrappers: Iterable[str]) -> StoredWeights:
    for wrapper in wrappers:
        inside = [name for name in weights if name.startswith(wrapper)]
        if not inside:
            continue
        beside = _BESIDE.get(wrapper, "\0")
        others = [n for n in weights if not n.startswith((wrapper, beside))]
        if others:
            raise ExportError(
                f"{place} holds {len(inside)} tensors whose names begin with {wrapper!r} and "
                f"{len(others)} others, such as {others[0][:80]!r}: they are not of one model; "
                f"{_WAYS_OUT}"
            )
        renamed = {name.removeprefix(wrapper): one for name, one in weights.stored.items()}
        if len(renamed) < len(weights):
            raise ExportError(f"{place} holds tensors with and without {wrapper!r}; {_WAYS_OUT}")
        return _stripped(StoredWeights(renamed), place, wrappers)  # they may be nested
    return weights
