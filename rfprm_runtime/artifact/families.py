"""Presets of the PRM formats that the runtime reads. A new family is a new entry and a golden file.

Sources: the model cards and inference snippets of the models named. Templates end at the last
marker: what follows it cannot change a causal model's scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rfprm_runtime.artifact.manifest import Head, Readout
from rfprm_runtime.artifact.prompt_format import (
    Marker,
    Piece,
    Prompt,
    Question,
    Response,
    Steps,
    Template,
    TrajectoryMarker,
)


@dataclass(frozen=True)
class Family:
    """What all models of one format share."""

    pieces: tuple[Piece, ...]
    head: Head
    step_marker_token: str | None = None
    """The text of the step marker: a special token, or with ``text_markers`` any text."""
    step_readout: Readout | None = None
    trajectory_marker_token: str | None = None
    trajectory_readout: Readout | None = None
    text_markers: bool = False
    strips: bool = False
    """:attr:`Prompt.strips`."""
    architectures: tuple[str, ...] = ()
    """Names in a Hugging Face ``config.json`` that only this family has."""

    def prompt(self, token_ids: Mapping[str, int | tuple[int, ...]]) -> Prompt:
        """The family's prompt for the ids of its markers (text → id, or the ids of all tokens)."""

        def marker(token: str | None) -> Marker | None:
            if not token:
                return None if token is None else Marker(token="")
            found = token_ids[token]
            if isinstance(found, int):
                return Marker(token=token, id=found)
            return Marker(token=token, id=found[-1], ids=found)

        return Prompt(
            pieces=self.pieces,
            step_marker=marker(self.step_marker_token),
            trajectory_marker=marker(self.trajectory_marker_token),
            strips=self.strips,
        )

    @property
    def marker_tokens(self) -> list[str]:
        tokens = (self.step_marker_token, self.trajectory_marker_token)
        return [token for token in tokens if token]


QWEN_QUESTION: tuple[Piece, ...] = (
    Template(
        text="<|im_start|>system\nPlease reason step by step, and put your final answer "
        "within \\boxed{}.<|im_end|>\n<|im_start|>user\n"
    ),
    Question(),
    Template(text="<|im_end|>\n<|im_start|>assistant\n"),
)

# The same, encoded as one string with the texts between, as transformers does.
QWEN_CHAT: tuple[Piece, ...] = tuple(
    piece.model_copy(update={"joins": joins}) if isinstance(piece, Template) else piece
    for piece, joins in zip(QWEN_QUESTION, ("after", "none", "both"), strict=True)
)

FAMILIES: dict[str, Family] = {
    # What this repository trains. The markers are special tokens that SmolLM2 reserves and its
    # chat training never uses; column 0 is the step head, column 1 the trajectory head.
    "rfprm": Family(
        pieces=(
            Template(text="<|im_start|>user\n"),
            Question(),
            Template(text="<|im_end|>\n<|im_start|>assistant\n"),
            Steps(),
            Response(separator="\n"),
            TrajectoryMarker(),
        ),
        step_marker_token="<repo_name>",
        trajectory_marker_token="<reponame>",
        head=Head(kind="linear", num_labels=2),
        step_readout=Readout(transform="sigmoid", positive=0),
        trajectory_readout=Readout(transform="sigmoid", positive=1),
    ),
    # The same, trained on Qwen2.5 and Qwen3: their chat format, and markers that they reserve for
    # images. The step marker has the same id as <extra_0> in Qwen2.5-Math-PRM, so step scores are
    # read as in that layout.
    "rfprm-qwen": Family(
        pieces=(
            *QWEN_QUESTION,
            Steps(),
            Response(separator="\n"),
            TrajectoryMarker(),
        ),
        step_marker_token="<|quad_end|>",
        trajectory_marker_token="<|quad_start|>",
        head=Head(kind="linear", num_labels=2),
        step_readout=Readout(transform="sigmoid", positive=0),
        trajectory_readout=Readout(transform="sigmoid", positive=1),
    ),
    # Qwen2.5-Math-PRM-7B and -72B, ReasonFlux-PRM-7B. The system prompt is the one of Qwen's
    # snippet, and the chat template's default, which ReasonFlux's snippet relies on.
    "qwen2.5-math-prm": Family(
        pieces=(*QWEN_CHAT, Steps()),
        step_marker_token="<extra_0>",
        head=Head(kind="mlp_relu", num_labels=2),
        step_readout=Readout(transform="softmax", positive=1),
        architectures=("Qwen2ForProcessRewardModel",),
    ),
}
