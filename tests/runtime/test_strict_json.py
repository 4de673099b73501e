from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime import ArtifactError, ManifestError
from rfprm_runtime.ground.strict_json import (
    MAX_DEPTH,
    is_deeper_than,
    parse_json,
    read_json,
    read_json_object,
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=8),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


def _parse(content: bytes) -> Any:
    return parse_json(content, name="x.json", refusal=ManifestError, way_out="write it again")


@given(VALUES)
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    for content in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False)):
        try:
            encoded = content.encode()
        except UnicodeEncodeError:
            continue
        assert _parse(encoded) == value
        assert _parse(b"\xef\xbb\xbf" + encoded) == value


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe{\0}\0", "codec can't decode"),
        (b'{"a": 1, "b": 2, "a": 3}', "has the name 'a' twice"),
        (b'[{"": 1, "": 2}]', "has the name '' twice"),
        (b"NaN", "NaN is not a finite number"),
        (b"-Infinity", "-Infinity is not a finite number"),
        (b"1e999", "1e999 is not a finite number"),
        (b"9223372036854775808", "is beyond 64 bits"),
        (b"-" + b"9" * 100_000, "is beyond 64 bits"),
        (b"[" * 65 + b"]" * 65, "nests deeper than 64"),
        (b"[" * 10_000_000, "nests deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nests deeper than 64"),
        (b'"' + b"a" * 2**24 + b'"', "has more than 16777216 bytes"),
    ],
)
def test_what_others_read_differently_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ManifestError, match=rf"x\.json.*{problem}.*write it again"):
        _parse(content)


def test_brackets_in_texts_are_not_depth() -> None:
    text = json.dumps('[{"\\' * 1000)
    content = "[" * MAX_DEPTH + text + "]" * MAX_DEPTH
    assert json.dumps(_parse(content.encode())) == content
    assert not is_deeper_than(b'"' + b"[" * 1000, 1)  # never closed
    assert not is_deeper_than(b'"\\' + b"[" * 1000 + b"\\", 1)
    assert is_deeper_than(b'"\\\\"' + b"[" * 2 + b"]" * 2, 1)


@given(st.integers(0, 40), st.integers(0, 40))
def test_depth_is_that_of_the_deepest_part(first: int, second: int) -> None:
    content = b"[" + b"[" * first + b"]" * first + b"," + b"[" * second + b"]" * second + b"]"
    deepest = max(first, second) + 1
    assert not is_deeper_than(content, deepest)
    assert is_deeper_than(content, deepest - 1)


def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", tmp_path / ("x" * 300), Path("a\0b")):
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_json(path, refusal=ArtifactError, way_out="again")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ArtifactError, match="is not a JSON object"):
        read_json_object(tmp_path / "x.json", refusal=ArtifactError, way_out="again")
