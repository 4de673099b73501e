"""What the documents say can be typed: commands, flags, targets, files and snippets exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# A diary says what was typed on its day, and a changelog what is gone.
CURRENT = [page for page in PAGES if page.name not in ("log.md", "CHANGELOG.md")]
OURS = ("rfprm_runtime", "rfprm_export", "rfprm_training", "benchmarks", "experiments")

_spec = spec_from_file_location("make_cli_page", ROOT / "docs" / "make_cli_page.py")
assert _spec is not None
assert _spec.loader is not None
make_cli_page: Any = module_from_spec(_spec)
_spec.loader.exec_module(make_cli_page)


def _pinned(package: str) -> str | None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{package}==(.+)$", text, re.M)
    return found.group(1) if found else None


@pytest.mark.skipif(
    _pinned("typer") != version("typer"), reason="another typer lays the help out otherwise"
)
def test_the_page_of_the_command_line_is_current() -> None:
    written = make_cli_page.PAGE.read_text(encoding="utf-8")
    assert written == make_cli_page.page(), "docs/cli.md is stale; run: make docs-cli"


def _code(page: Path) -> Iterator[tuple[int, str, str]]:
    """Blocks and spans of code: the line where one begins, its language and its text."""
    text = page.read_text(encoding="utf-8")
    block = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
    for match in block.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1), match.group(2)
    rest = block.sub(lambda match: "\n" * match.group().count("\n"), text)
    for match in re.finditer(r"`([^`]+)`", rest):
        yield rest.count("\n", 0, match.start()) + 1, "span", match.group(1)


def _typed(page: Path) -> Iterator[tuple[str, str]]:
    """Command lines, joined where they go on behind a backslash, with their places."""
    for line, language, text in _code(page):
        if language in ("", "span", "sh", "bash", "console"):
            for command in re.sub(r"\\\n\s*", "", text).splitlines():
                command = command.strip().removeprefix("$ ").partition(" #")[0]
                yield f"{page.relative_to(ROOT)}:{line}: {command}", command


def test_commands_and_flags_of_the_documents_exist() -> None:
    app = make_cli_page.declared_app()
    flags = {
        name: set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", make_cli_page.help_of(app, name)))
        for name in make_cli_page.command_names(app)
    }
    own = {"--version", "--help"}
    wrong, seen = [], 0
    for page in CURRENT:
        if page == make_cli_page.PAGE:
            continue
        for place, command in _typed(page):
            match = re.match(r"rfprm(?: ([a-z][a-z-]*))?(?: |$)(.*)", command)
            if match is None:
                continue
            name, rest = match.groups()
            seen += 1
            if name is not None and name not in flags:
                wrong.append(f"{place}\n    there is no command {name!r}")
                continue
            used = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest))
            unknown = used - own - (flags[name] if name else set())
            wrong += [f"{place}\n    there is no {flag}" for flag in sorted(unknown)]
    assert not wrong, "\n".join(wrong)
    assert seen > 30


def _why_not(words: list[str], targets: set[str]) -> str | None:
    """What is wrong with a command of make or Python, None where nothing is."""
    if words[:1] == ["make"]:
        wanted = [word for word in words[1:] if "=" not in word]
        unknown = set(wanted[:1]) - targets
        return f"the Makefile has no target {unknown.pop()}" if unknown else None
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in OURS:
        return None if find_spec(words[2]) else f"there is no module {words[2]}"
    if words[:1] == ["python"] and len(words) > 1 and re.fullmatch(r"\w+/.*\.py", words[1]):
        return None if (ROOT / words[1]).is_file() else f"there is no file {words[1]}"
    return None


def test_targets_modules_and_scripts_of_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.M))
    problems = [
        (place, _why_not(command.split(), targets))
        for page in CURRENT
        for place, command in _typed(page)
    ]
    wrong = [f"{place}\n    {problem}" for place, problem in problems if problem]
    assert not wrong, "\n".join(wrong)


def test_links_between_the_documents_lead_somewhere() -> None:
    wrong = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(ROOT)} links to {target}")
    assert not wrong, "\n".join(wrong)


def test_snippets_compile_and_their_imports_resolve() -> None:
    wrong, seen = [], 0
    for page in CURRENT:
        for line, language, text in _code(page):
            if language == "python":
                seen += 1
                place = f"{page.relative_to(ROOT)}:{line}"
                wrong += [f"{place}: {problem}" for problem in _problems(text)]
    assert not wrong, "\n".join(wrong)
    assert seen > 10


def _problems(snippet: str) -> Iterator[str]:
    try:
        tree = ast.parse(snippet)
    except SyntaxError as error:
        yield f"it does not compile: {error}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            if module.partition(".")[0] in OURS:
                yield from _missing_names(node, module)


def _missing_names(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        yield f"import {module}: {error}"
        return
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if not hasattr(found, alias.name):
                yield f"{module} has no {alias.name}"


def test_files_that_contributors_are_sent_to_exist() -> None:
    wrong = []
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "docs/stability.md"):
        for line, language, text in _code(ROOT / name):
            is_path = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)+/?", text)  # not one outside: ../
            if language == "span" and is_path and not (ROOT / text).exists():
                wrong.append(f"{name}:{line}: there is no {text}")
    assert not wrong, "\n".join(wrong)


def test_hooks_before_a_commit_are_the_checks_of_ci() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    checks = {command.strip() for command in re.findall(r"entry: \.venv/bin/(.+)", hooks)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint_and_types = re.findall(r"^\t\$\(BIN\)/((?:ruff|mypy).*)$", makefile, re.M)
    assert checks == {command.strip() for command in lint_and_types}
