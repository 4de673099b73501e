from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models

from rfprm_runtime import TokenizerMismatchError, Trajectory
from rfprm_runtime.artifact.families import FAMILIES
from rfprm_runtime.artifact.prompt_format import Marker
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from tiny_models import SPECIAL_TOKENS, byte_tokenizer, tiny_manifest

GOLDEN = Path(__file__).parent.parent / "golden"
TOKENIZER = byte_tokenizer()
MANIFEST = tiny_manifest(TOKENIZER)
ENCODER = TrajectoryEncoder(TOKENIZER, MANIFEST.prompt, vocab_size=MANIFEST.backbone.vocab_size)
SPECIAL_IDS = {TOKENIZER.token_to_id(token) for token in SPECIAL_TOKENS}
TEXT = st.lists(
    st.one_of(st.sampled_from([*SPECIAL_TOKENS, "\n", " ", "the"]), st.text(max_size=5)),
    min_size=1,
    max_size=6,
).map(lambda parts: "x" + "".join(parts).encode("utf-8", "ignore").decode())


def _regenerate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regenerate", GOLDEN / "regenerate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_match_the_golden_files(family: str) -> None:
    expected = json.loads((GOLDEN / f"{family}.json").read_text(encoding="utf-8"))
    assert _regenerate().golden(family) == expected


@given(question=TEXT, steps=st.lists(TEXT, min_size=1, max_size=4), response=st.lists(TEXT))
@settings(max_examples=60)
def test_no_text_forges_a_marker(question: str, steps: list[str], response: list[str]) -> None:
    row = ENCODER.encode(Trajectory(question=question, steps=steps, response=response))
    marker_ids = [MANIFEST.prompt.step_marker.id] * len(steps)
    assert MANIFEST.prompt.trajectory_marker is not None
    marker_ids.append(MANIFEST.prompt.trajectory_marker.id)
    assert row.token_ids[row.marker_positions].tolist() == marker_ids
    found = np.flatnonzero(np.isin(row.token_ids, sorted(set(marker_ids))))
    assert found.tolist() == row.marker_positions.tolist()
    # Two template tokens open the turns and one closes the question's; no text adds another.
    assert np.isin(row.token_ids, sorted(SPECIAL_IDS)).sum() == 3 + len(marker_ids)


@given(steps=st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=30)
def test_every_step_decodes_to_itself(steps: list[str]) -> None:
    row = ENCODER.encode(Trajectory(question="q", steps=steps))
    for index, step in enumerate(steps):
        start, end = row.step_bounds[index], row.step_bounds[index + 1]
        assert row.marker_positions[index] == end - 1
        assert TOKENIZER.decode(row.token_ids[start : end - 1].tolist()) == step


def test_a_question_alone_changes_only_the_prefix() -> None:
    short = ENCODER.encode(Trajectory(question="q", steps=["a", "b"]))
    long = ENCODER.encode(Trajectory(question="q and more", steps=["a", "b"]))
    shift = long.num_prefix_tokens - short.num_prefix_tokens
    assert shift > 0
    assert (long.marker_positions - short.marker_positions == shift).all()


def test_a_tokenizer_with_too_many_ids_is_refused() -> None:
    with pytest.raises(TokenizerMismatchError, match="belongs to another model"):
        TrajectoryEncoder(byte_tokenizer(), MANIFEST.prompt, vocab_size=10)


def test_a_tokenizer_with_another_marker_id_is_refused() -> None:
    prompt = MANIFEST.prompt.model_copy(update={"step_marker": Marker(token="<repo_name>", id=5)})
    with pytest.raises(TokenizerMismatchError, match=r"'<repo_name>' with id 5"):
        TrajectoryEncoder(byte_tokenizer(), prompt, vocab_size=MANIFEST.backbone.vocab_size)


def test_a_tokenizer_that_encodes_the_template_differently_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pre_tokenizer = None
    with pytest.raises(TokenizerMismatchError, match="declares template"):
        TrajectoryEncoder(tokenizer, MANIFEST.prompt, vocab_size=MANIFEST.backbone.vocab_size)


def test_a_marker_that_text_could_spell_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<mark>", special=False)])
    marker = Marker(token="<mark>", id=tokenizer.token_to_id("<mark>"))
    prompt = MANIFEST.prompt.model_copy(update={"step_marker": marker})
    with pytest.raises(TokenizerMismatchError, match="mark it as special"):
        TrajectoryEncoder(tokenizer, prompt, vocab_size=tokenizer.get_vocab_size())


def test_a_tokenizer_without_the_marker_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    with pytest.raises(TokenizerMismatchError, match="no id"):
        TrajectoryEncoder(tokenizer, MANIFEST.prompt, vocab_size=1000)


@pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerMismatchError, match=r"tokenizer\.json cannot be read"):
        TrajectoryEncoder.load(tmp_path, MANIFEST.prompt, vocab_size=1000)
