"""The prompts of classifiers as transformers saves them, which say less than a PRM needs.

Source: TRL's ``RewardTrainer`` (sequences) and ``PRMTrainer`` (tokens).
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from tokenizers import Tokenizer

from rfprm_export import ExportError
from rfprm_export.chat_rendering import TODAY
from rfprm_export.chat_template import (
    ChatFormat,
    chat_format,
    read_chat_template,
    read_tokenizer_config,
    special_tokens,
)
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

_SEPARATORS = {
    "qwen2.5-math-*-instruct-prm-0.2": "\n\n",  # HuggingFaceH4
    "qwen2-0.5b-reward-math-sheperd": "\n",  # trl-lib
}
"""What published token classifiers were trained with, by their cards."""
_RIGHT = {"correct", "right", "good", "positive", "true", "+", "yes"}
_WRONG = {"incorrect", "wrong", "bad", "negative", "false", "-", "no"}

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
    options = described.options
    template = read_chat_template(described.folder, options.chat_template)
    prompt = options.system_prompt if options.system_prompt is not None else system
    config = read_tokenizer_config(described.folder)
    found = chat_format(template, config, prompt)
    if found.is_dated:
        described.notes["chat_template"] = f"writes today's date, taken to be {TODAY:%d %B %Y}"
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


def _closing(found: ChatFormat, described: Described) -> tuple[str, str]:
    """The text that is encoded with the answer, and the marker that follows it. transformers reads
    a sequence at its last token that is not the padding token."""
    first = _first_special(found.closing, described.tokenizer)
    text, marker = found.closing[:first], found.closing[first:]
    padding = described.config.get("pad_token_id")
    content = described.tokenizer.id_to_token(padding) if isinstance(padding, int) else None
    while content and marker.endswith(content):
        marker = marker[: -len(content)]
    return text, marker


def _first_special(text: str, tokenizer: Tokenizer) -> int:
    added = tokenizer.get_added_tokens_decoder().values()
    contents = [re.escape(token.content) for token in added if token.special]
    match = re.search("|".join(contents), text) if contents else None
    return len(text) if match is None else match.start()


def _known_separator(name: str) -> str | None:
    for pattern, separator in _SEPARATORS.items():
        if fnmatchcase(name.lower(), pattern):
            return separator
    return None


def _right_label(described: Described) -> int:
    """TRL's label 1, unless the config names the labels the other way round."""
    names = described.config.get("id2label")
    first = str(names.get("0", "")).lower() if isinstance(names, dict) else ""
    second = str(names.get("1", "")).lower() if isinstance(names, dict) else ""
    return 0 if first in _RIGHT and second in _WRONG else 1
