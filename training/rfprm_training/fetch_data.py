"""Downloads GSM8K's files as the shipped configs read them, or copies them from a folder.

Knows names, URLs and sha256 sums; :mod:`rfprm_training.gsm8k` knows the contents.
"""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rfprm_runtime.ground.content import sha256_of
from rfprm_runtime.ground.whole_files import replacing_path
from rfprm_training import DataError, TrainingError

UPSTREAM = (
    "https://raw.githubusercontent.com/openai/grade-school-math/"
    "3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
)
_SECONDS = 60.0


def _as_it_is(content: bytes) -> bytes:
    return content


def _every_second_row(content: bytes) -> bytes:
    """Every second row; the others are kept for final evaluations, so no training sees them."""
    rows = [json.loads(line) for line in content.splitlines()]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[::2]).encode()


@dataclass(frozen=True)
class DataFile:
    name: str
    sha256: str
    upstream: str
    """Its name in grade-school-math."""
    make: Callable[[bytes], bytes]
    """Makes the content from the upstream file's."""
    fields: str


FILES = (
    DataFile(
        "gsm8k_train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        "train.jsonl",
        _as_it_is,
        "7,473 rows: question, answer (one step per line, <<48/2=24>> notes, #### and the answer)",
    ),
    DataFile(
        "gsm8k_model_solutions.jsonl",
        "2baae791097e2fc0b4b9135b36bb6e8a61a570b0dd5b652275e08752d5e32032",
        "example_model_solutions.jsonl",
        _every_second_row,
        "660 rows: question, ground_truth, and for each of four models solution and is_correct",
    ),
)


def fetch_data(
    folder: Path, *, source: Path | None = None, upstream: str = UPSTREAM
) -> list[tuple[DataFile, bool]]:
    """Put :data:`FILES` into ``folder``; returns for each whether it was written.

    A file that is already there with the right sha256 is left alone. ``source``: a folder to read
    from instead of the network, with these files or those of grade-school-math.
    Raises :class:`DataError` for a file with other content, and :class:`TrainingError` if one
    cannot be downloaded or found.
    """
    done = []
    for file in FILES:
        path = folder / file.name
        is_there = path.is_file() and sha256_of(path) == file.sha256
        if not is_there:
            content = _read(file, source, upstream)
            folder.mkdir(parents=True, exist_ok=True)
            with replacing_path(path) as partial:
                partial.write_bytes(content)
        done.append((file, not is_there))
    return done


def _read(file: DataFile, source: Path | None, upstream: str) -> bytes:
    if source is None:
        place = f"{upstream}/{file.upstream}"
        content = _made(file, _download(place), place)
    else:
        path = next((p for p in (source / file.name, source / file.upstream) if p.is_file()), None)
        if path is None:
            raise TrainingError(
                f"{source} holds neither {file.name} nor grade-school-math's {file.upstream}; "
                f"expected {file.fields}"
            )
        place, content = str(path), path.read_bytes()
        if path.name == file.upstream:
            content = _made(file, content, place)
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataError(
            f"{place} gives a {file.name} with sha256 {digest}, expected {file.sha256} "
            f"({file.fields}); to train on other data, set its path in the config's [data]"
        )
    return content


def _made(file: DataFile, content: bytes, place: str) -> bytes:
    try:
        return file.make(content)
    except ValueError as error:
        raise DataError(f"{place} is not JSON with one object per line: {error}") from None


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            content: bytes = response.read()
    except OSError as error:  # the base of urllib's errors
        raise TrainingError(
            f"cannot download {url}: {error}; get the file another way and pass its folder with "
            "--from"
        ) from None
    return content
