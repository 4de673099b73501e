"""GSM8K's files as the shipped configs read them: downloaded, or made from a folder that has them.

Knows names, places and sha256 sums; what is in the files :mod:`rfprm_training.gsm8k` knows.
"""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rfprm_runtime.artifact.integrity import sha256_of
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
    """The other rows are kept for final evaluations, so that no training has seen them."""
    rows = [json.loads(line) for line in content.splitlines()]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[::2]).encode()


@dataclass(frozen=True)
class DataFile:
    name: str
    sha256: str
    upstream: str
    """Its name in grade-school-math."""
    make: Callable[[bytes], bytes]
    """From the upstream file's content."""
    fields: str


FILES = (
    DataFile(
        "gsm8k_train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        "train.jsonl",
        _as_it_is,
        "7,473 rows: question, answer (a step a line, <<48/2=24>> notes, #### and the answer)",
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
    """Put :data:`FILES` into ``folder``; says of each whether it had to be written.

    ``source``: a folder that holds them, or the files of grade-school-math, instead of the network.
    Raises :class:`DataError` for a file of another content and :class:`TrainingError` where one
    cannot be had; a file that is there and whole is left alone.
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
                f"{source} holds neither {file.name} nor {file.upstream} of grade-school-math; "
                f"expected {file.fields}"
            )
        place, content = str(path), path.read_bytes()
        if path.name == file.upstream:
            content = _made(file, content, place)
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataError(
            f"{place} gives a {file.name} with sha256 {digest}, expected {file.sha256} "
            f"({file.fields}); for other data of this form name it in the config's [data]"
        )
    return content


def _made(file: DataFile, content: bytes, place: str) -> bytes:
    try:
        return file.make(content)
    except ValueError as error:
        raise DataError(f"{place} is not JSON, an object a line: {error}") from None


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            content: bytes = response.read()
    except OSError as error:  # urllib's errors are all of this kind
        raise TrainingError(
            f"cannot download {url}: {error}; get the file in another way and name its folder with "
            "--from"
        ) from None
    return content
