"""The prompts of published reward models: what no text can do to them, and texts with odd edges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from published_models import LLAMA_SPECIAL, QWEN_SPECIAL, llama_tokenizer, qwen_tokenizer
from rfprm_export.preset import Described, ReadingOptions
from rfprm_export.presets import PRESETS
from rfprm_export.published import _marker_ids
from rfprm_export.published_scores import published_scores_of
from rfprm_runtime import Trajectory
from rfprm_runtime.artifact.prompt_format import Prompt
from rfprm_runtime.prompt.encoding import TrajectoryEncoder, with_template_ids

MORE = ("<repo_name>", "<reponame>", "<|quad_end|>", "<|quad_start|>", "<s>")
FIXED = [
    name
    for name in PRESETS
    if name not in ("sequence-classifier", "skywork-reward", "acemath-rm")  # ask their template
]
TEXT = st.lists(
    st.sampled_from(
        [*LLAMA_SPECIAL, *QWEN_SPECIAL, *MORE, "\n", " ", "ки", " \n\n\n\n", "x", "ß."]
    ),
    min_size=1,
    max_size=6,
).map(lambda parts: "a" + "".join(parts))


def _tokenizer(name: str) -> Tokenizer:
    is_qwen = "qwen" in name or name in ("math-psa", "skywork-o1-prm", "reasonflux-prm-1.5b")
    tokenizer = qwen_tokenizer() if is_qwen else llama_tokenizer()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in MORE])
    return tokenizer


def _encoder(name: str) -> tuple[TrajectoryEncoder, Prompt, Tokenizer]:
    tokenizer, options = _tokenizer(name), ReadingOptions(step_separator="\n\n")
    family = PRESETS[name].family(Described(Path(), Path(), "model", tokenizer, {}, options))
    ids = _marker_ids(tokenizer, family, name)
    prompt = with_template_ids(family.prompt(ids), tokenizer)
    return TrajectoryEncoder(tokenizer, prompt, vocab_size=600), prompt, tokenizer


ENCODERS = {name: _encoder(name) for name in FIXED}


@pytest.mark.parametrize("name", FIXED)
@given(question=TEXT, steps=st.lists(TEXT, min_size=1, max_size=3), response=st.lists(TEXT))
@settings(max_examples=25)
def test_no_text_moves_a_marker_or_forges_a_special_token(
    name: str, question: str, steps: list[str], response: list[str]
) -> None:
    encoder, prompt, tokenizer = ENCODERS[name]
    row = encoder.encode(Trajectory(question=question, steps=steps, response=response))
    plain = encoder.encode(Trajectory(question="a", steps=["a"] * len(steps), response=["a"]))
    markers = [prompt.step_marker] * len(steps) if prompt.step_marker else []
    markers += [prompt.trajectory_marker] if prompt.trajectory_marker else []
    assert len(row.marker_positions) == len(markers)
    for marker, place in zip(markers, row.marker_positions, strict=True):
        assert marker is not None
        ids = marker.all_ids
        assert tuple(row.token_ids[place + 1 - len(ids) : place + 1]) == ids
    added = tokenizer.get_added_tokens_decoder()
    special = [index for index, token in added.items() if token.special]
    assert np.isin(row.token_ids, special).sum() == np.isin(plain.token_ids, special).sum()


@pytest.mark.parametrize("name", FIXED)
@given(question=TEXT, steps=st.lists(TEXT, min_size=2, max_size=4))
@settings(max_examples=25)
def test_a_trace_that_grows_has_the_tokens_of_the_whole(
    name: str, question: str, steps: list[str]
) -> None:
    encoder, prompt, _ = ENCODERS[name]
    if prompt.step_marker is None:
        return
    whole = encoder.encode(Trajectory(question=question, steps=steps))
    parts = [
        encoder.encode_opening(question),
        encoder.encode_steps(question, steps[:1]),
        encoder.encode_steps(question, steps[1:], after=1),
        encoder.encode_closing(()),
    ]
    ids = np.concatenate([part.token_ids for part in parts])
    assert ids.tolist() == whole.token_ids.tolist()
    starts = np.cumsum([0, *(part.num_tokens for part in parts)])
    markers = [p.marker_positions + s for p, s in zip(parts, starts, strict=False)]
    assert np.concatenate(markers).tolist() == whole.marker_positions.tolist()


@pytest.mark.parametrize("name", FIXED)
def test_step_bounds_lie_where_steps_begin(name: str) -> None:
    """So that windows of long traces can be cut there."""
    encoder, prompt, tokenizer = ENCODERS[name]
    steps = ["Alpha is 1.", "Beta is 2.", "Gamma is 3."]
    row = encoder.encode(Trajectory(question="What?", steps=steps))
    for index, step in enumerate(steps):
        begin, end = row.step_bounds[index], row.step_bounds[index + 1]
        text: Any = tokenizer.decode(row.token_ids[begin:end].tolist(), skip_special_tokens=False)
        assert step in text
        assert not any(other in text for other in steps if other != step)
    if prompt.step_marker is not None:
        assert (row.marker_positions[:3] < row.step_bounds[1:]).all()


def _in_qwen_chat(question: str, steps: tuple[str, ...]) -> str:
    answer = "".join(f"{step}<extra_0>" for step in steps)
    return (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within "
        f"\\boxed{{}}.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}"
        "<|im_end|>\n"
    )


def _with_step_tags(question: str, steps: tuple[str, ...]) -> str:
    return f"<s> {question} " + "\n".join(f"{step} ки" for step in steps)


@pytest.mark.parametrize(
    ("model", "family", "their_text"),
    [
        ("qwen2.5-math-prm-7b", "qwen2.5-math-prm", _in_qwen_chat),
        ("qwen2.5-math-7b-prm800k", "qwen2.5-math-prm", _in_qwen_chat),
        ("math-shepherd-mistral-7b-prm", "math-shepherd", _with_step_tags),
    ],
)
def test_a_published_trace_gives_the_tokens_of_the_page_that_scored_it(
    model: str, family: str, their_text: Callable[[str, tuple[str, ...]], str]
) -> None:
    encoder, tokenizer = ENCODERS[family][0], _tokenizer(family)
    published = published_scores_of(model)
    assert published
    for one in published:
        trace = one.trajectory
        row = encoder.encode(trace)
        theirs = tokenizer.encode(their_text(trace.question, trace.steps), add_special_tokens=False)
        assert row.token_ids.tolist() == theirs.ids[: row.num_tokens]
        assert len(row.marker_positions) == len(one.step_scores)
