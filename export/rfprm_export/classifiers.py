"""The prompts of classifiers as transformers saves them, which say less than a PRM needs.

Source: TRL's ``RewardTrainer`` (sequences) and ``PRMTrainer`` (tokens).
"""

from __future__ import annotations

import re

from tokenizers import Tokenizer

from rfprm_export import ExportError
from rfprm_export.chat_template import (
    ChatFormat,
    chat_format,
    read_chat_template,
    read_tokenizer_config,
    special_tokens,
)
from rfprm_export.model_names import is_called
from rfprm_export.preset import Described
from rfprm_runtime.artifact.families import Family
from rfprm_runtime.artifact.manifest import Head, Readout
from rfprm_runtime.artifact.prompt_format import (
    Piece,
    Question,
    Response,
    Steps,
    Template,
    TrajectoryMarker,
)
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.prompt import runs

_SEPARATORS = {
    "qwen2.5-math-*-instruct-prm-0.2": "\n\n",  # HuggingFaceH4
    "qwen2-0.5b-reward-math-sheperd": "\n",  # trl-lib
}
"""What published token classifiers were trained with, by their cards."""
_RIGHT = {"correct", "right", "good", "positive", "pos", "true", "valid", "yes", "+", "1"}
_WRONG = {
    "incorrect",
    "wrong",
    "bad",
    "negative",
    "neg",
    "false",
    "invalid",
    "no",
    "-",
    "0",
    "error",
}
_NEGATIONS = {"no", "not", "non", "without"}

# A whole answer as one text, as sequence models get it.
WHOLE_ANSWER: tuple[Piece, ...] = (
    Steps(between=Template(text="\n\n", joins="both")),
    Response(separator="\n\n", before=Template(text="\n\n", joins="both")),
)


def token_family(
    described: Described, *, separator: str | None = None, readout: Readout | None = None
) -> Family:
    """A classifier of tokens: the question and each step are encoded by themselves, each step is
    followed by a separator, and read at its last token. ``readout``: of the label that means right.

    Raises :class:`ExportError` if nothing tells the separator.
    """
    separator = described.options.step_separator or separator or _known_separator(described.name)
    if separator is None:
        raise ExportError(
            "the model is a token classifier, read after each step at a separator that the "
            "checkpoint does not hold; give the one that it was trained with, for TRL's default: "
            r"--step-separator '\n'"
        )
    _check_labels(described, 2, "a PRM has two, for wrong and right steps")
    begin = special_tokens(read_tokenizer_config(described.folder)).get("bos_token")
    return Family(
        pieces=(*([Template(text=begin)] if begin else []), Question(), Steps()),
        step_marker_token=separator,
        text_markers=True,
        head=Head(kind="linear", num_labels=2),
        step_readout=readout or Readout(transform="softmax", positive=_right_label(described)),
    )


def sequence_family(described: Described, *, system: str | None = None) -> Family:
    """A classifier of sequences with one label: a number without bounds for a chat of question and
    answer, read at its last token. ``system``: the system prompt of its card.

    Raises :class:`ExportError` if there is no chat template that can be used.
    """
    _check_labels(described, 1, "a reward model has one, as TRL's RewardTrainer saves it")
    options = described.options
    template = read_chat_template(described.chat, options.chat_template)
    prompt = options.system_prompt if options.system_prompt is not None else system
    config = read_tokenizer_config(described.folder)
    found = chat_format(template, config, prompt)
    if found.notes:
        described.notes["chat_template"] = "; ".join(found.notes)
    _check_ends(found, described)
    closing, marker = _closing(found, described)
    return Family(
        pieces=(
            *([Template(text=found.opening, joins="after")] if found.opening else []),
            Question(),
            Template(text=found.middle, joins="both"),
            *WHOLE_ANSWER,
            *([Template(text=closing, joins="before")] if closing else []),
            TrajectoryMarker(),
        ),
        trajectory_marker_token=marker,
        text_markers=True,
        strips=found.strips,
        head=Head(kind="linear", num_labels=1),
        trajectory_readout=Readout(transform="none", positive=0),
    )


def _check_ends(found: ChatFormat, described: Described) -> None:
    """Raises :class:`ExportError` if what ends the texts of a chat cannot be told from them."""
    tokenizer, (padding, content) = described.tokenizer, _padding(described)
    if found.strips and not _has_special(found.middle, tokenizer):
        raise ExportError(
            "the chat template drops the white space around texts between which it writes no "
            "special token, so that they are encoded as one; give one that does not with "
            "--chat-template"
        )
    closing = tokenizer.encode(found.closing, add_special_tokens=False).ids
    may_end_in_it = not closing or closing[-1] == padding
    if content and may_end_in_it and not _has_special(content, tokenizer):
        raise ExportError(
            f"the model's pad_token_id is {padding}, the ordinary token {shown(content)}, in which "
            "a chat may end: transformers would read the token before it; correct it in config.json"
        )


def _closing(found: ChatFormat, described: Described) -> tuple[str, str]:
    """The text that is encoded with the answer, and the marker that follows it. transformers reads
    a sequence at its last token that is not the padding token."""
    first = _first_special(found.closing, described.tokenizer)
    text, marker = found.closing[:first], found.closing[first:]
    _, content = _padding(described)
    while content and marker.endswith(content):
        marker = marker[: -len(content)]
    return text, marker


def _padding(described: Described) -> tuple[int | None, str | None]:
    """The id and the text of the padding token, as far as the model has one."""
    found = described.config.get("pad_token_id")
    if not isinstance(found, int):
        return None, None
    return found, described.tokenizer.id_to_token(found)


def _has_special(text: str, tokenizer: Tokenizer) -> bool:
    return _first_special(text, tokenizer) < len(text)


def _first_special(text: str, tokenizer: Tokenizer) -> int:
    pattern = runs.special_tokens(tokenizer)
    match = None if pattern is None else pattern.search(text)
    return len(text) if match is None else match.start()


def _known_separator(name: str) -> str | None:
    for pattern, separator in _SEPARATORS.items():
        if is_called(name, pattern):
            return separator
    return None


def _check_labels(described: Described, expected: int, why: str) -> None:
    """Raises :class:`ExportError` if the config names more labels, or fewer. One that names none
    leaves it to the shape of the head."""
    names = described.config.get("id2label")
    if isinstance(names, dict) and len(names) != expected:
        some = ", ".join(shown(str(names[key])) for key in list(names)[:4])
        more = ", …" if len(names) > 4 else ""
        number = f"{len(names)} label{'' if len(names) == 1 else 's'}"
        raise ExportError(
            f"the model is a classifier of {number} ({some}{more}), and {why}; this one cannot be "
            "read"
        )


def _right_label(described: Described) -> int:
    """What the config's names of the labels say, or TRL's label 1 if it has none.

    Raises :class:`ExportError` for names that do not tell: the other label would turn every score
    round.
    """
    found = described.config.get("id2label")
    names = [str(found.get(index)) for index in ("0", "1")] if isinstance(found, dict) else []
    meanings = [_means_right(name) for name in names]
    if names and (None in meanings or meanings[0] == meanings[1]):
        raise ExportError(
            f"the model's labels are {shown(names[0])} and {shown(names[1])}, and nothing tells "
            "which of them means that a step is right; name them 'wrong' and 'right', each at its "
            "place, in the id2label of config.json"
        )
    return meanings.index(True) if names else 1


def _means_right(label: str) -> bool | None:
    """Whether a label's name says that a step is right; None if it does not tell."""
    words = set(re.findall(r"[a-z]+|[0-9]+|[+-]", label.lower())) - {"label"}
    if len(words) > 1:
        words -= {"-"}  # a hyphen
    if len(words) > 1 and words & _NEGATIONS:
        return None
    is_right, is_wrong = bool(words & _RIGHT), bool(words & _WRONG)
    return None if is_right == is_wrong else is_right
