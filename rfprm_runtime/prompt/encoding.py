"""Encodes segments into token ids and marker positions.

Each segment is encoded on its own, so marker positions are known by construction: no text is ever
searched for a marker, and no text can forge one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import TOKENIZER_NAME, Marker, Prompt, Template
from rfprm_runtime.engine.rows import TokenRow
from rfprm_runtime.errors import InvalidTrajectoryError, TokenizerMismatchError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.prompt.alphabet import Alphabet
from rfprm_runtime.prompt.rendering import (
    MarkerSegment,
    Segment,
    UserText,
    render,
    render_closing,
    render_opening,
    render_steps,
)
from rfprm_runtime.prompt.tokenizer_file import parse_tokenizer, tokenizer_errors
from rfprm_runtime.types import Trajectory

_AGAIN = "export the artifact again"


@dataclass(frozen=True)
class EncodedTrajectory(TokenRow):
    """A whole trajectory. Its markers are those of the steps, then the trajectory's if any."""

    step_bounds: NDArray[np.int64]  # [num_steps + 1], where each step begins and the last ends

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
            # From here on a special token spelled in user text is plain text.
            tokenizer.encode_special_tokens = True
            _check_markers_cannot_be_forged(tokenizer, prompt)
            self._alphabet = Alphabet(tokenizer)
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._prompt = prompt

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

    # The parts of an unfinished trajectory. Segments are encoded on their own, so the parts,
    # joined, are the ids of the whole trajectory.

    def encode_opening(self, question: str) -> TokenRow:
        """The tokens before the first step; they have no markers."""
        return self._encode_segments(render_opening(question, self._prompt))

    def encode_steps(self, steps: Sequence[str]) -> TokenRow:
        return self._encode_segments(render_steps(steps, self._prompt))

    def encode_closing(self, response: Sequence[str]) -> TokenRow:
        """The tokens after the last step, with the trajectory's marker if the prompt has one."""
        return self._encode_segments(render_closing(response, self._prompt))

    def _encode_segments(self, segments: Iterable[Segment]) -> EncodedTrajectory:
        segments = list(segments)
        row = join_segments(segments, self._encode_texts(segments))
        # A vocabulary may have holes, so its size says nothing about its largest id.
        if row.token_ids.max(initial=0) >= self._vocab_size:
            raise TokenizerMismatchError(
                f"the tokenizer gives a text the id {row.token_ids.max()}, but the model's "
                f"vocabulary has {self._vocab_size}; it belongs to another model"
            )
        return row

    def _encode_texts(self, segments: list[Segment]) -> list[list[int]]:
        given = [segment for segment in segments if isinstance(segment, UserText)]
        texts = [segment.text for segment in given]
        with _running_the_tokenizer():
            if self._alphabet.first_lost("".join(texts)) is not None:
                raise self._lost_character(given)
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        if not all(ids):
            raise InvalidTrajectoryError(
                f"{_named(given[ids.index([])])} encodes to no tokens: the model would not see it"
            )
        return ids

    def _lost_character(self, given: list[UserText]) -> InvalidTrajectoryError:
        found = ((segment, self._alphabet.first_lost(segment.text)) for segment in given)
        segment, place = next(pair for pair in found if pair[1] is not None)
        character = segment.text[place or 0]
        return InvalidTrajectoryError(
            f"{_named(segment)} holds {character!r} (U+{ord(character):04X}) as character {place} "
            "(from 0), for which the PRM's tokenizer has no token, so the model would not see it; "
            "remove it or replace it"
        )


def join_segments(segments: list[Segment], text_ids: list[list[int]]) -> EncodedTrajectory:
    """Concatenate the ids of the segments and note where each marker and step lands."""
    token_ids: list[int] = []
    marker_positions: list[int] = []
    step_bounds: list[int] = []
    texts = iter(text_ids)
    for segment in segments:
        if isinstance(segment, MarkerSegment):
            marker_positions.append(len(token_ids))
            token_ids.append(segment.marker.id)
            if segment.step is not None:
                step_bounds.append(len(token_ids))
        elif isinstance(segment, Template):
            token_ids.extend(segment.ids or ())
        else:
            if segment.step == 0:
                step_bounds.append(len(token_ids))
            token_ids.extend(next(texts))
    return EncodedTrajectory(
        token_ids=np.array(token_ids, dtype=np.int64),
        marker_positions=np.array(marker_positions, dtype=np.int64),
        step_bounds=np.array(step_bounds, dtype=np.int64),
    )


def _named(segment: UserText) -> str:
    """What errors call a text: a question or a response by how it begins."""
    if segment.step is None:
        return f"the text {shown(segment.text)}"
    return f"step {segment.step} (from 0)"


def _running_the_tokenizer() -> AbstractContextManager[None]:
    return tokenizer_errors("the tokenizer fails", refusal=TokenizerMismatchError, way_out=_AGAIN)


def with_template_ids(prompt: Prompt, tokenizer: Tokenizer) -> Prompt:
    """The prompt with the ids of its templates filled in; done once, at export."""
    pieces = tuple(
        piece.model_copy(update={"ids": tuple(_template_ids(tokenizer, piece))})
        if isinstance(piece, Template)
        else piece
        for piece in prompt.pieces
    )
    return prompt.model_copy(update={"pieces": pieces})


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
    for marker in _markers(prompt):
        found = tokenizer.token_to_id(marker.token)
        if found != marker.id:
            raise TokenizerMismatchError(
                f"the manifest declares marker {marker.token!r} with id {marker.id}, but the "
                f"tokenizer gives it {'no id' if found is None else f'id {found}'}; use the "
                "tokenizer of the same artifact or export again"
            )
    for piece in prompt.pieces:
        if isinstance(piece, Template):
            found_ids = tuple(_template_ids(tokenizer, piece))
            if piece.ids != found_ids:
                raise TokenizerMismatchError(
                    f"the manifest declares template {piece.text!r} as ids {piece.ids}, but the "
                    f"tokenizer encodes it to {found_ids}; use the tokenizer of the same "
                    "artifact or export again"
                )


def _check_markers_cannot_be_forged(tokenizer: Tokenizer, prompt: Prompt) -> None:
    """User text must not be able to spell a marker that is a special token."""
    for marker in _markers(prompt):
        ids = tokenizer.encode(f"a{marker.token}b", add_special_tokens=False).ids
        if marker.id in ids and marker.id in tokenizer.get_added_tokens_decoder():
            raise TokenizerMismatchError(
                f"marker {marker.token!r} spelled out in a step encodes to the marker's own id "
                f"{marker.id}; mark it as special in {TOKENIZER_NAME} and export again"
            )


def _markers(prompt: Prompt) -> list[Marker]:
    markers = (prompt.step_marker, prompt.trajectory_marker)
    return [marker for marker in markers if marker is not None]
