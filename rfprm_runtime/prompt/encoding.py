"""Encodes segments into token ids and marker positions.

Markers are put between texts that were encoded without them, so their positions are known by
construction: no text is ever searched for a marker, and no text can forge one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import TOKENIZER_NAME
from rfprm_runtime.artifact.prompt_format import Marker, Piece, Prompt, Response, Steps, Template
from rfprm_runtime.engine.rows import TokenRow
from rfprm_runtime.errors import InvalidTrajectoryError, TokenizerMismatchError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.prompt.alphabet import Alphabet
from rfprm_runtime.prompt.rendering import (
    Segment,
    UserText,
    render,
    render_closing,
    render_opening,
    render_steps,
)
from rfprm_runtime.prompt.runs import Cutter, Fixed, Run
from rfprm_runtime.prompt.tokenizer_file import parse_tokenizer, tokenizer_errors
from rfprm_runtime.types import Trajectory

_AGAIN = "export the artifact again"


@dataclass(frozen=True)
class EncodedTrajectory(TokenRow):
    """A whole trajectory. Its markers are those of the steps if the prompt has any, then the
    trajectory's if it has one."""

    step_bounds: NDArray[np.int64]  # [num_steps + 1], where each step begins and the last ends
    num_step_markers: int

    @property
    def num_steps(self) -> int:
        return len(self.step_bounds) - 1

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first step: the question and its template."""
        return int(self.step_bounds[0])


class TrajectoryEncoder:
    """Encodes trajectories for one prompt. Thread-safe: nothing changes after construction."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, *, vocab_size: int) -> None:
        """Check that the tokenizer fits the prompt, and prepare it for plain user text.

        Raises :class:`TokenizerMismatchError` if a template, a marker or the size of the vocabulary
        is not what the manifest says.
        """
        with _running_the_tokenizer():
            tokenizer.no_padding()
            tokenizer.no_truncation()
            _check_fits(tokenizer, prompt, vocab_size)
            self._cutter = Cutter(prompt, tokenizer)
            # From here on a special token spelled in user text is plain text.
            tokenizer.encode_special_tokens = True
            _check_markers_cannot_be_forged(tokenizer, prompt)
            self._alphabet = Alphabet(tokenizer)
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._prompt = prompt
        self._steps_join_opening = self._cutter.cut(render_opening("?", prompt))[1]

    @classmethod
    def load(
        cls, folder: Path | ArtifactFiles, prompt: Prompt, *, vocab_size: int
    ) -> TrajectoryEncoder:
        """From ``tokenizer.json`` in ``folder``; raises :class:`TokenizerMismatchError`, and
        :class:`ArtifactError` if the file cannot be read."""
        files = folder if isinstance(folder, ArtifactFiles) else ArtifactFiles(folder)
        content, name = files.read(TOKENIZER_NAME).tobytes(), str(files.folder / TOKENIZER_NAME)
        tokenizer = parse_tokenizer(content, name, refusal=TokenizerMismatchError, way_out=_AGAIN)
        return cls(tokenizer, prompt, vocab_size=vocab_size)

    # Each of these raises InvalidTrajectoryError for a text with a character that the tokenizer
    # has no tokens for: it would be dropped, and the score would be that of another text.

    def encode(self, trajectory: Trajectory) -> EncodedTrajectory:
        return self._encode_segments(render(trajectory, self._prompt))

    # The parts of an unfinished trajectory. The parts, joined, are the ids of the whole one, if the
    # prompt has step markers, at which texts end.

    def encode_unfinished(self, question: str, steps: Sequence[str]) -> TokenRow:
        """The tokens of the question and the steps so far, without what closes the trajectory."""
        opening, so_far = render_opening(question, self._prompt), render_steps(steps, self._prompt)
        return self._encode_segments([*opening, *so_far])

    def encode_opening(self, question: str) -> TokenRow:
        """The tokens before the first step; they have no markers. If the prompt encodes its last
        text and the first step as one string, they belong to the first step."""
        items, is_open = self._cutter.cut(render_opening(question, self._prompt))
        return self._encode_items(items[:-1] if is_open else items)

    def encode_steps(self, question: str, steps: Sequence[str], *, after: int = 0) -> TokenRow:
        """The tokens of ``steps``, of which ``after`` others came before."""
        segments = list(render_steps(steps, self._prompt, after=after))
        if after or not self._steps_join_opening:
            return self._encode_segments(segments)
        num_opening = self.encode_opening(question).num_tokens
        whole = self._encode_segments([*render_opening(question, self._prompt), *segments])
        markers = whole.marker_positions - num_opening
        return TokenRow(whole.token_ids[num_opening:], markers)

    def encode_closing(self, response: Sequence[str]) -> TokenRow:
        """The tokens after the last step, with the trajectory's marker if the prompt has one."""
        return self._encode_segments(render_closing(response, self._prompt))

    def _encode_segments(self, segments: Iterable[Segment]) -> EncodedTrajectory:
        return self._encode_items(self._cutter.cut(segments)[0])

    def _encode_items(self, items: list[Run | Fixed]) -> EncodedTrajectory:
        row = _joined(items, self._encode_runs([item for item in items if isinstance(item, Run)]))
        # A vocabulary may have holes, so its size says nothing about its largest id.
        if row.token_ids.max(initial=0) >= self._vocab_size:
            raise TokenizerMismatchError(
                f"the tokenizer gives a text the id {row.token_ids.max()}, but the model's "
                f"vocabulary has {self._vocab_size}; it belongs to another model"
            )
        return row

    def _encode_runs(self, runs: list[Run]) -> list[Encoding]:
        texts = [run.text for run in runs]
        encode = (
            self._tokenizer.encode_batch
            if any(run.has_inner_bounds for run in runs)
            else self._tokenizer.encode_batch_fast  # without the place of each token
        )
        with _running_the_tokenizer():
            if self._alphabet.first_lost("".join(texts)) is not None:
                raise self._lost_character([text for run in runs for text in run.texts])
            encodings: list[Encoding] = encode(texts, add_special_tokens=False)
        for run, encoding in zip(runs, encodings, strict=True):
            if not encoding.ids and run.texts:
                raise InvalidTrajectoryError(
                    f"{_named(run.texts[0])} encodes to no tokens: the model would not see it"
                )
        return encodings

    def _lost_character(self, given: list[UserText]) -> InvalidTrajectoryError:
        found = ((segment, self._alphabet.first_lost(segment.text)) for segment in given)
        segment, place = next(pair for pair in found if pair[1] is not None)
        character = segment.text[place or 0]
        return InvalidTrajectoryError(
            f"{_named(segment)} holds {character!r} (U+{ord(character):04X}) as character {place} "
            "(from 0), for which the PRM's tokenizer has no token, so the model would not see it; "
            "remove it or replace it"
        )


def _joined(items: list[Run | Fixed], encodings: list[Encoding]) -> EncodedTrajectory:
    """Concatenate the ids of the items and note where each marker and step lands."""
    token_ids: list[int] = []
    marker_positions: list[int] = []
    step_begins: list[int] = []
    steps_end, num_step_markers = 0, 0
    encoded = iter(encodings)
    for item in items:
        num_before = len(token_ids)
        if isinstance(item, Run):
            encoding = next(encoded)
            token_ids.extend(encoding.ids)
            step_begins += [num_before + _token_at(encoding, place) for place in item.begins]
            if item.end is not None:
                steps_end = num_before + _token_at(encoding, item.end)
            continue
        token_ids.extend(item.ids)
        if item.marker is not None:
            marker_positions.append(len(token_ids) - 1)
            if item.step is not None:
                num_step_markers, steps_end = num_step_markers + 1, len(token_ids)
    return EncodedTrajectory(
        token_ids=np.array(token_ids, dtype=np.int64),
        marker_positions=np.array(marker_positions, dtype=np.int64),
        step_bounds=np.array([*step_begins, steps_end] if step_begins else [], dtype=np.int64),
        num_step_markers=num_step_markers,
    )


def _token_at(encoding: Encoding, place: int) -> int:
    """The index of the token that holds the character ``place``, or the number of tokens."""
    if place == 0:
        return 0
    offsets = encoding.offsets
    return bisect_right(offsets, place, key=lambda offset: offset[1]) if offsets else 0


def _named(segment: UserText) -> str:
    """What errors call a text: a question or a response by how it begins."""
    if segment.step is None:
        return f"the text {shown(segment.text)}"
    return f"step {segment.step} (from 0)"


def _running_the_tokenizer() -> AbstractContextManager[None]:
    return tokenizer_errors("the tokenizer fails", refusal=TokenizerMismatchError, way_out=_AGAIN)


def with_template_ids(prompt: Prompt, tokenizer: Tokenizer) -> Prompt:
    """The prompt with the ids of its templates filled in; done once, at export."""

    def filled(piece: Piece) -> Piece:
        if isinstance(piece, Template):
            return piece.model_copy(update={"ids": tuple(_template_ids(tokenizer, piece))})
        if isinstance(piece, Steps) and piece.between is not None:
            return piece.model_copy(update={"between": filled(piece.between)})
        if isinstance(piece, Response) and piece.before is not None:
            return piece.model_copy(update={"before": filled(piece.before)})
        return piece

    return prompt.model_copy(update={"pieces": tuple(map(filled, prompt.pieces))})


def _template_ids(tokenizer: Tokenizer, template: Template) -> list[int]:
    ids: list[int] = tokenizer.encode(template.text, add_special_tokens=False).ids
    return ids


def _check_fits(tokenizer: Tokenizer, prompt: Prompt, vocab_size: int) -> None:
    num_ids = tokenizer.get_vocab_size(with_added_tokens=True)
    if num_ids > vocab_size:
        raise TokenizerMismatchError(
            f"the tokenizer has {num_ids} ids, but the model's vocabulary has {vocab_size}; "
            "it belongs to another model"
        )
    for marker in prompt.markers:
        found = _marker_ids(tokenizer, marker)
        if found != marker.all_ids:
            declared = _ids_in_words(marker.all_ids)
            raise TokenizerMismatchError(
                f"the manifest declares marker {marker.token!r} with {declared}, but the tokenizer "
                f"gives it {_ids_in_words(found)}; use the tokenizer of the same artifact or "
                "export again"
            )
    for template in prompt.templates():
        found = tuple(_template_ids(tokenizer, template))
        if template.ids != found:
            raise TokenizerMismatchError(
                f"the manifest declares template {template.text!r} as ids {template.ids}, but the "
                f"tokenizer encodes it to {found}; use the tokenizer of the same artifact or "
                "export again"
            )


def _marker_ids(tokenizer: Tokenizer, marker: Marker) -> tuple[int, ...]:
    if marker.ids is not None:
        return tuple(tokenizer.encode(marker.token, add_special_tokens=False).ids)
    found = tokenizer.token_to_id(marker.token)
    return () if found is None else (found,)


def _ids_in_words(ids: tuple[int, ...]) -> str:
    return "no id" if not ids else f"id {ids[0]}" if len(ids) == 1 else f"ids {list(ids)}"


def _check_markers_cannot_be_forged(tokenizer: Tokenizer, prompt: Prompt) -> None:
    """User text must not be able to spell a marker that is a special token."""
    added = tokenizer.get_added_tokens_decoder()
    for marker in prompt.markers:
        ids = tokenizer.encode(f"a{marker.token}b", add_special_tokens=False).ids
        for index in set(marker.all_ids) & set(ids):
            if index in added:
                raise TokenizerMismatchError(
                    f"marker {marker.token!r} spelled out in a step encodes to the id {index} of "
                    f"{added[index].content!r} itself; mark it as special in {TOKENIZER_NAME} and "
                    "export again"
                )
