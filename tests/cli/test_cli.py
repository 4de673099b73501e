from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import RfprmError
from rfprm_runtime.cli import main as cli
from rfprm_runtime.cli.score_file import score_file
from rfprm_runtime.cli.terminal import read_backend_options
from rfprm_runtime.errors import install_command
from run_rfprm import rfprm
from tiny_models import byte_tokenizer, fake_artifact, fake_scorer, tiny_manifest


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


GOOD = {"question": "q?", "steps": ["a", "b"], "id": 7, "nested": {"x": [1, None]}, "名": "ü"}
BAD_LINES = {
    b'{"question": "q", "steps": [': "not JSON",
    b'{"question": "q\xff", "steps": ["a"]}': "not UTF-8",
    b'{"question": "q",': "not JSON: Expecting property name enclosed in double quotes, column 18",
    b'["a", "list"]': "a JSON array, expected an object",
    b'{"steps": ["a"]}': "no question: expected a field 'question' or 'problem'",
    b'{"question": "q"}': "no steps and no text of a trace",
    b'{"question": "q", "steps": []}': "its 'steps' is empty",
    b'{"question": "q", "steps": ["a", " "]}': "only white space",
    b'{"question": "q", "steps": [1, 2]}': "steps.0",
    b'{"question": 5, "steps": ["a"]}': "question",
    b'{"question": "q", "completion": " "}': "its 'completion' is empty",
    b'{"question": "q", "steps": ["%s"]}' % (b"x" * 600): "512 positions",
    b'{"question": "q", "steps": ["a"], "reward": 1}': "choose a --prefix",
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.items(), ids=BAD_LINES.values())
def test_a_bad_line_is_reported_and_the_others_scored(
    tmp_path: Path, line: bytes, message: str
) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = json.dumps(GOOD).encode()
    traces.write_bytes(b"\n".join([good, line, b"", good]) + b"\n")
    with fake_scorer() as scorer:
        summary = score_file(scorer, traces, output)
    assert (summary.num_scored, summary.num_failed) == (2, 1)
    assert len(_rows(output)) == 2
    [error] = _rows(tmp_path / "out.jsonl.errors.jsonl")
    assert error["line"] == 2
    assert message in error["error"]
    assert summary.first_errors == [f"line 2: {error['error']}"]


def test_every_input_field_is_kept_unchanged_and_in_order(tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [GOOD, {**GOOD, "id": 8, "odd": "\ud800"}, {"question": "q", "text": "a\n\nb\n\nc"}]
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with fake_scorer() as scorer:
        score_file(scorer, traces, output)
        expected = scorer.score("q?", steps=["a", "b"])
    found = _rows(output)
    for row, scored in zip(rows, found, strict=True):
        assert list(scored)[: len(row)] == list(row)
        assert {key: scored[key] for key in row} == row
    assert found[0]["step_scores"] == expected.step_scores.tolist()
    assert found[0]["reward"] == expected.reward
    assert len(found[2]["step_scores"]) == 3
    assert "名" in output.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    odd = {"x": float("nan"), "list": [1.5, float("-inf")], "名": "ü"}
    traces.write_text(json.dumps({**GOOD, "odd": odd}) + "\n", encoding="utf-8")
    with fake_scorer() as scorer:
        score_file(scorer, traces, output)
    refuse = lambda constant: pytest.fail(f"{constant} is not JSON")  # noqa: E731
    row = json.loads(output.read_text(encoding="utf-8"), parse_constant=refuse)
    assert row["odd"] == {"x": None, "list": [1.5, None], "名": "ü"}


@pytest.fixture
def same_rows(tmp_path: Path) -> list[str]:
    """The same rows as JSON lines, Parquet and a Hub data set; one row has no trace."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": f"q{i}", "steps": ["a", "b"], "x": i / 2, "tag": "t"} for i in range(300)]
    rows[2] = {"question": "q2", "steps": [], "x": float("nan"), "tag": None}
    rows[3] |= {"x": float("nan"), "tag": None}
    (tmp_path / "hub").mkdir()
    for path in (tmp_path / "in.jsonl", tmp_path / "hub" / "train.jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=70)
    return [str(tmp_path / "in.jsonl"), str(tmp_path / "in.parquet"), f"hf://{tmp_path / 'hub'}"]


def test_parquet_and_hub_data_sets_are_scored_like_jsonl(
    same_rows: list[str], tmp_path: Path
) -> None:
    found = []
    for source, unit in zip(same_rows, ("line", "row", "row"), strict=True):
        output = tmp_path / "out.jsonl"
        with fake_scorer() as scorer:
            summary = score_file(scorer, source, output)
        assert (summary.num_scored, summary.num_failed, summary.unit) == (299, 1, unit)
        [error] = _rows(tmp_path / "out.jsonl.errors.jsonl")
        assert error[unit] == 3
        assert summary.first_errors == [f"{unit} 3: {error['error']}"]
        found.append(output.read_bytes())
    assert found[0] == found[1] == found[2]
    assert _rows(tmp_path / "out.jsonl")[2]["x"] is None


def test_the_command_scores_parquet_and_hub_data_sets(
    same_rows: list[str], tiny_artifact: Path, tmp_path: Path
) -> None:
    for source in same_rows[1:]:
        output = tmp_path / "out.jsonl"
        output.unlink(missing_ok=True)
        done = rfprm("score", source, "-o", output, "-a", tiny_artifact, "--threads", "1")
        assert done.returncode == 3, done.stderr
        assert "1 rows could not be scored" in done.stderr
        assert len(_rows(output)) == 299


def test_values_that_json_cannot_hold_raise_an_error_with_a_way_out(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"question": "q", "steps": ["a"], "when": datetime.datetime(2026, 1, 1)}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    with fake_scorer() as scorer, pytest.raises(RfprmError, match=r"row 1 .* rfprm select can"):
        score_file(scorer, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_the_progress_total_needs_no_second_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"q{i}", "steps": ["s" * (1 + i % 9)]} for i in range(600)]
    traces = tmp_path / "in.jsonl"
    traces.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    expected: list[int | None] = []
    done: list[int] = []

    class Bar:
        expect = staticmethod(expected.append)
        advance = staticmethod(done.append)

        def close(self) -> None:
            pass

    opened: list[str] = []
    open_path = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *a, **k: opened.append(path.name) or open_path(path, *a, **k)
    )
    monkeypatch.setattr("rfprm_runtime.cli.score_file.progress_bar", lambda *_, **__: Bar())
    with fake_scorer() as scorer:
        score_file(scorer, traces, tmp_path / "out.jsonl", show_progress_bar=True)
    assert opened.count("in.jsonl") == 2  # the first time to see whether it is an array
    assert sum(done) == expected[-1] == 600
    assert all(570 < total < 630 for total in expected if total is not None)


def test_the_output_folder_is_created(tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "new" / "deep" / "out.jsonl"
    traces.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    with fake_scorer() as scorer:
        score_file(scorer, traces, output)
    assert len(_rows(output)) == 1


def test_a_prefix_keeps_old_scores(tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    traces.write_text(json.dumps({**GOOD, "reward": -1}) + "\n", encoding="utf-8")
    with fake_scorer() as scorer:
        score_file(scorer, traces, output, prefix="prm_", overflow="window")
    [row] = _rows(output)
    assert row["reward"] == -1
    assert row["prm_reward"] > 0
    assert row["prm_windowed_from"] is None


def test_windows_cost_what_is_printed(tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    long = {"question": "q?", "steps": [f"step {index}" for index in range(40)]}
    traces.write_text(json.dumps(long) + "\n" + json.dumps(GOOD) + "\n", encoding="utf-8")
    artifact = fake_artifact(tmp_path / "prm", tiny_manifest(byte_tokenizer(), max_positions=160))
    command = ("score", traces, "-o", output, "-a", artifact, "--backend", "fake")
    factors = []
    for context in (0, 0.5):
        windows = ("--overflow", "window", "--window-context", context, "--overwrite")
        done = rfprm(*command, *windows)
        assert done.returncode == 0
        said = re.search(r"1 of them longer than .* which ran (\d\.\d\d) times", done.stderr)
        assert said is not None
        factors.append(float(said.group(1)))
    assert 1 < factors[0] < factors[1] < 3
    refused = rfprm(*command, "--window-context", "0.5", "--overwrite")
    assert refused.returncode == 1
    assert "add --overflow window, or leave it out" in refused.stderr
    assert "context is 1.0" in rfprm(*command, *windows[:3], 1, "--overwrite").stderr


def test_many_lines_keep_their_order(tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"question": f"q{i}", "steps": ["s"] * (1 + i % 3), "i": i} for i in range(600)]
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with fake_scorer() as scorer:
        score_file(scorer, traces, output)
    assert [row["i"] for row in _rows(output)] == list(range(600))


def test_an_interrupted_run_keeps_the_old_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    traces.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    output.write_text("old\n")
    with fake_scorer() as scorer:
        monkeypatch.setattr(scorer, "score_batch", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            score_file(scorer, traces, output)
    assert output.read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def _interrupt(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    traces = tmp_path / "in.jsonl"
    traces.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    with fake_scorer() as scorer, pytest.raises(RfprmError, match="is the input itself"):
        score_file(scorer, traces, traces)
    assert _rows(traces) == [GOOD]


@pytest.mark.parametrize("name", ["out.parquet", "out.CSV"])
def test_an_output_of_another_format_is_refused_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    traces = tmp_path / "in.jsonl"
    traces.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    with (
        fake_scorer() as scorer,
        pytest.raises(RfprmError, match=r"JSONL: name it out\.jsonl"),
    ):
        score_file(scorer, traces, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_made_up_scores_are_said_to_be(tiny_artifact: Path, tmp_path: Path) -> None:
    traces = tmp_path / "in.jsonl"
    traces.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    found = rfprm(
        *("score", traces, "-o", tmp_path / "out.jsonl", "-a", tiny_artifact, "--backend", "fake")
    )
    assert found.returncode == 0
    assert "makes its scores up" in found.stderr


def test_the_score_command(tiny_artifact: Path, tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    traces.write_text(json.dumps(GOOD) + "\nnot json\n", encoding="utf-8")
    found = rfprm("score", traces, "-o", output, "-a", tiny_artifact, "--threads", "1")
    assert found.returncode == 3
    assert "1 traces scored" in found.stderr
    assert "line 2: not JSON" in found.stderr
    assert "Traceback" not in found.stderr
    [row] = _rows(output)
    assert len(row["step_scores"]) == 2


def test_a_pinned_artifact_is_scored_with_or_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_text(json.dumps(GOOD), encoding="utf-8")
    pin = hashlib.sha256((tiny_artifact / "prm.json").read_bytes()).hexdigest()
    assert pin in rfprm("info", tiny_artifact).stdout
    arguments = ("score", traces, "-o", tmp_path / "out.jsonl", "-a", tiny_artifact)
    assert rfprm(*arguments, "--sha256", pin).returncode == 0
    failed = rfprm(*arguments, "--overwrite", "--sha256", "0" * 64)
    assert failed.returncode == 1
    assert pin in failed.stderr
    assert "0" * 64 in failed.stderr


def test_an_empty_file_gives_a_warning(tiny_artifact: Path, tmp_path: Path) -> None:
    traces = tmp_path / "in.jsonl"
    traces.write_text("\n")
    found = rfprm("score", traces, "-o", tmp_path / "out.jsonl", "-a", tiny_artifact)
    assert found.returncode == 0
    assert f"{traces} is empty" in found.stderr


def test_info_prints_the_manifest(tiny_artifact: Path) -> None:
    found = rfprm("info", tiny_artifact)
    assert found.returncode == 0
    assert "qwen2.5-math-prm" in found.stdout
    lines = found.stdout.splitlines()  # one per label, however narrow a terminal would be
    [parity] = [line for line in lines if "max difference" in line]
    assert parity.startswith("parity ")
    assert " scores of " in parity
    assert len(parity) > 80
    as_json = rfprm("info", tiny_artifact, "--json")
    assert as_json.stdout == (tiny_artifact / "prm.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "absent"], "there is no artifact folder 'absent'"),
        (["score", "absent.jsonl", "-o", "out.jsonl"], "there is no file 'absent.jsonl'"),
        (["export", "absent", "-o", "artifact"], "there is no checkpoint 'absent'"),
    ],
)
def test_errors_are_one_line_and_status_1(arguments: list[str], message: str) -> None:
    found = rfprm(*arguments)
    assert found.returncode == 1
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_help_lists_the_commands_of_all_packages() -> None:
    found = rfprm("--help")
    assert found.returncode == 0
    for command in ("score", "info", "demo", "export", "train", "evaluate"):
        assert f" {command} " in found.stdout


def test_help_fits_a_terminal_of_80_columns_and_never_cuts_the_name_of_an_option() -> None:
    commands = re.findall(r"^  ([a-z][a-z0-9-]+)  ", rfprm("--help").stdout, re.MULTILINE)
    assert len(commands) > 15
    for command in commands:
        shown = rfprm(command, "--help", columns=80).stdout
        assert max(map(len, shown.splitlines())) <= 80, command
        assert not re.findall(r"--[\w-]*…", shown), command


def test_help_says_how_to_install_a_missing_command(tmp_path: Path) -> None:
    absent = tmp_path / "rfprm_training"
    absent.mkdir()
    (absent / "__init__.py").touch()
    (absent / "commands.py").write_text(
        "from rfprm_runtime.errors import MissingExtraError\n"
        "raise MissingExtraError('torch', 'train', 'training')\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from rfprm_runtime.cli.main import main; main()"
    )
    found, called = (
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        for arguments in (["--help"], ["train", "--anything"])
    )
    assert "(needs the extra train)" in found.stdout
    assert install_command("train") in called.stderr


def test_help_shows_how_to_name_a_hub_data_set() -> None:
    for command in ("select", "curate"):
        assert "hf://NAME[@CONFIG][:SPLIT]" in rfprm(command, "--help").stdout


@pytest.mark.parametrize(
    "script", ["export/to_onnx.py", "training/train.py", "training/evaluate.py"]
)
def test_scripts_run_the_same_commands(script: str, tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[2] / script
    shown = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.returncode == 0
    assert "Usage" in shown.stdout
    failed = subprocess.run(
        [sys.executable, path, "absent", "-o", "out"], capture_output=True, text=True, cwd=tmp_path
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("rfprm: ")
    assert failed.stderr.count("\n") == 1


def test_backend_options_are_read_as_json_or_text() -> None:
    options = [
        "num_streams=2",
        "dtype=bfloat16",
        "packed=true",
        'provider_options={"device_id": 1}',
    ]
    assert read_backend_options(options, 4) == {
        "num_threads": 4,
        "num_streams": 2,
        "dtype": "bfloat16",
        "packed": True,
        "provider_options": {"device_id": 1},
    }
    assert read_backend_options(None, None) == {}


@pytest.mark.parametrize("option", ["dtype", "=3", "two words=1", "num_threads=2"])
def test_an_invalid_backend_option_is_refused(option: str) -> None:
    with pytest.raises(RfprmError, match="--backend-option"):
        read_backend_options([option], 4)


def test_an_unknown_backend_option_names_the_known_ones(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    traces.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    found = rfprm(
        "score", traces, "-o", output, "-a", tiny_artifact, "--backend-option", "streams=2"
    )
    assert found.returncode == 1
    assert "has no option 'streams'; it takes ['kernels', 'map_weights', " in found.stderr
    assert not output.exists()


def test_a_command_of_another_version_says_so_when_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other commands still work. An editable install lists the commands it was installed with."""
    stale = EntryPoint("gone", "rfprm_runtime.cli.main:no_such_command", "rfprm.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [stale])
    failed = rfprm("gone", "--anything")
    assert "no_such_command" in failed.stderr
    assert "install rfprm_runtime again" in failed.stderr


def test_a_terminated_job_leaves_no_partial_file(tiny_artifact: Path, tmp_path: Path) -> None:
    """SIGTERM, which clusters send and Python does not turn into an exception by itself."""
    traces = tmp_path / "in.jsonl"
    trace = {"question": "q", "steps": ["some words and more of them"] * 9}
    traces.write_text((json.dumps(trace) + "\n") * 20_000, encoding="utf-8")
    arguments = ["score", str(traces), "-o", str(tmp_path / "out.jsonl"), "-a", str(tiny_artifact)]
    command = "import sys; from rfprm_runtime.cli.main import main; main()"
    job = subprocess.Popen([sys.executable, "-c", command, *arguments], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".out.jsonl.partial-*")):
        assert job.poll() is None
        time.sleep(0.01)
    job.terminate()
    assert job.wait(60) == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_closed_stderr_does_not_lose_the_scores(tiny_artifact: Path, tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    traces.write_text((json.dumps(GOOD) + "\n") * 3, encoding="utf-8")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from rfprm_runtime.cli.main import main; main()"]
    arguments = ["score", str(traces), "-o", str(output), "-a", str(tiny_artifact)]
    subprocess.run([*command, *arguments], stderr=write)
    os.close(write)
    assert len(_rows(output)) == 3


def test_the_errors_file_does_not_overwrite_the_input(tiny_artifact: Path, tmp_path: Path) -> None:
    traces = tmp_path / "out.jsonl.errors.jsonl"
    traces.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    failed = rfprm("score", traces, "-o", tmp_path / "out.jsonl", "-a", tiny_artifact)
    assert failed.returncode == 1
    assert "is the input itself" in failed.stderr
    assert json.loads(traces.read_text()) == GOOD


def test_an_ascii_terminal_gets_escapes(tiny_artifact: Path) -> None:
    found = rfprm("info", tiny_artifact, encoding="ascii")
    assert found.returncode == 0
    assert "\\u03b1" in found.stdout or found.stdout.isascii()


def test_bad_lines_beyond_the_listed_ones_are_counted(tiny_artifact: Path, tmp_path: Path) -> None:
    traces = tmp_path / "in.jsonl"
    traces.write_text("null\n" * 13, encoding="utf-8")
    found = rfprm("score", traces, "-o", tmp_path / "out.jsonl", "-a", tiny_artifact)
    assert found.returncode == 3
    assert "a JSON null, expected an object" in found.stderr
    assert "and 3 more" in found.stderr


def test_score_reads_the_same_formats_as_select(tmp_path: Path) -> None:
    """A separate thinking field, chats, several generations."""
    rows = [
        {"question": "q", "thinking": "a\n\nb", "response": "c"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"question": "q", "generations": ["a", "b"]},
    ]
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    traces.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with fake_scorer() as scorer:
        summary = score_file(scorer, traces, output)
        expected = [scorer.score("q", ["a", "b"], ["c"]), scorer.score("q", ["a"])]
        expected += [scorer.score("q", ["a"]), scorer.score("q", ["b"])]
    assert [row["reward"] for row in _rows(output)] == [score.reward for score in expected]
    assert [row.get("generation") for row in _rows(output)] == [None, None, 0, 1]
    assert summary.tally.readings == {
        "question from 'question', thinking from 'thinking', response from 'response'": 1,
        "question from 'messages', text from 'messages'": 1,
        "question from 'question', text from 'generations'": 2,
    }


def test_an_existing_output_is_replaced_only_when_asked_to(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    traces.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    for command, source in (("score", traces), ("select", traces), ("view", tmp_path / "s.jsonl")):
        arguments: list[str | Path] = [command, source, "-o", output]
        arguments += [] if command == "view" else ["-a", tiny_artifact]
        arguments += ["--top", "1"] if command == "select" else []
        output.write_text("mine", encoding="utf-8")
        refused = rfprm(*arguments)
        assert refused.returncode == 1
        assert refused.stderr == (
            f"rfprm: {output} exists; choose another name, or use --overwrite\n"
        )
        assert output.read_text(encoding="utf-8") == "mine"
        replaced = rfprm(*arguments, "--overwrite")
        assert replaced.returncode == 0, replaced.stderr
        if command == "score":
            output.rename(tmp_path / "s.jsonl")


def test_score_is_quiet_limited_and_reads_standard_input(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    rows = [{"problem": "q?", "model_output": "a\n\nb", "solution": "gold"}] * 3
    arguments = ["score", "-", "-o", output, "-a", tiny_artifact, "--limit", "2"]
    said = rfprm(*arguments, stdin="".join(json.dumps(row) + "\n" for row in rows)).stderr
    assert "read question from 'problem', text from 'model_output'" in said
    assert len(_rows(output)) == 2
    quiet = rfprm(
        "score", output, "-o", tmp_path / "again.jsonl", "-a", tiny_artifact, "--prefix", "p_", "-q"
    )
    assert (quiet.returncode, quiet.stderr, quiet.stdout) == (0, "", "")
