"""What a classifier says of its labels, name and padding, and what it leaves open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jinja2")

from published_models import QWEN_CHAT, qwen_tokenizer
from rfprm_export import ExportError
from rfprm_export.classifiers import sequence_family, token_family
from rfprm_export.family_choice import choose_family
from rfprm_export.head_weights import said_of_head, with_head
from rfprm_export.preset import Described, ReadingOptions
from rfprm_export.presets import PRESETS
from rfprm_export.stored_weights import StoredWeights
from rfprm_runtime.artifact.families import Family
from rfprm_runtime.artifact.manifest import Head

TRIMMING = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim + '.' }}{% endfor %}"


def _described(folder: Path, *, chat: str | None = None, **config: Any) -> Described:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat}))
    options = ReadingOptions(step_separator="\n")
    return Described(folder, folder, "model", qwen_tokenizer(), config, options)


@pytest.mark.parametrize(
    ("first", "second", "right"),
    [
        ("LABEL_0", "LABEL_1", 1),
        ("LABEL_1", "LABEL_0", 0),
        ("0", "1", 1),
        ("-", "+", 1),
        ("CORRECT", "INCORRECT", 0),
        ("right step", "wrong step", 0),
        ("bad_step", "good_step", 1),
        ("POS", "NEG", 0),
        ("<extra_pos>", "<extra_neg>", 0),
        ("is-invalid", "is-valid", 1),
        ("True", "False", 0),
        ("error", "not", None),
        ("no error", "error", None),
        ("not correct", "correct", None),
        ("A", "B", None),
        ("good", "okay", None),
        ("good", "right", None),
    ],
)
def test_labels_are_read_by_their_names_or_refused(
    tmp_path: Path, first: str, second: str, right: int | None
) -> None:
    described = _described(tmp_path, id2label={"0": first, "1": second})
    if right is None:
        with pytest.raises(ExportError, match="nothing tells which of them"):
            token_family(described)
        return
    readout = token_family(described).step_readout
    assert readout is not None
    assert readout.positive == right


def test_without_names_label_1_is_right(tmp_path: Path) -> None:
    readout = token_family(_described(tmp_path)).step_readout
    assert readout is not None
    assert readout.positive == 1


@pytest.mark.parametrize("owner", ["", "nvidia--", "models--nvidia--", "nvidia_"])
def test_a_folder_may_be_named_with_the_owner(owner: str) -> None:
    """Otherwise the model would lose its system prompt, or be read though it cannot be."""
    named, _ = choose_family(None, f"{owner}AceMath-7B-RM", ("Qwen2ForSequenceClassification",))
    assert named == "acemath-rm"
    with pytest.raises(ExportError, match="is a policy"):
        choose_family("fover-qwen", f"{owner}Eurus-2-7B-PRIME", ("Qwen2ForCausalLM",))


def test_texts_that_are_trimmed_and_not_set_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="encoded as one"):
        sequence_family(_described(tmp_path, chat=TRIMMING))


def test_padding_in_which_a_chat_may_end_is_refused(tmp_path: Path) -> None:
    stop = qwen_tokenizer().token_to_id(".")
    ends_so = TRIMMING.replace(" | trim", "")
    for chat in (ends_so, ends_so.replace(" + '.'", "")):  # the template's stop, or the answer's
        with pytest.raises(ExportError, match=r"the ordinary token '\.'"):
            sequence_family(_described(tmp_path, chat=chat, pad_token_id=stop))
    assert sequence_family(_described(tmp_path, chat=QWEN_CHAT, pad_token_id=stop))


@pytest.mark.parametrize(
    ("family", "names", "said"),
    [
        (token_family, ["a", "b", "c"], "of 3 labels .'a', 'b', 'c'., and a PRM has two"),
        (token_family, ["LABEL_0"], "of 1 label .'LABEL_0'., and a PRM has two"),
        (
            sequence_family,
            ["bad", "good"],
            "of 2 labels .'bad', 'good'., and a reward model",
        ),
    ],
)
def test_a_classifier_of_other_labels_is_refused(
    tmp_path: Path, family: Callable[[Described], Family], names: list[str], said: str
) -> None:
    labels = {str(index): name for index, name in enumerate(names)}
    with pytest.raises(ExportError, match=said):
        family(_described(tmp_path, chat=QWEN_CHAT, id2label=labels))


def test_a_bias_that_transformers_ignores_is_left_out_and_said() -> None:
    """transformers' sequence classifiers have no bias, its token classifiers have one."""
    weights = StoredWeights.of(
        {"score.weight": np.ones((1, 4), np.float32), "score.bias": np.ones(1, np.float32)}
    )

    def bias(name: str) -> float:
        found = with_head(
            weights,
            PRESETS[name].head,
            Head(kind="linear", num_labels=1),
            folder=Path(),
            tokenizer=qwen_tokenizer(),
            family=name,
            hidden_size=4,
        )
        return float(found["score.bias"][0])

    for name in ("sequence-classifier", "skywork-reward", "acemath-rm"):
        assert bias(name) == 0
        assert "score.bias" in said_of_head(weights, PRESETS[name].head)["left out"]
    assert bias("token-classifier") == 1
    assert not said_of_head(weights, PRESETS["token-classifier"].head)
