"""The plan of the house: what each room may import, and how large its parts may grow."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.project import ROOT

STEPS = ROOT / "steps"

# The rooms from the lowest floor to the highest, and what each may import besides itself.
# `ground` is the modules that stand in steps/ itself and are no step: words that all rooms share.
# `scripts` is the steps, their command line and the pipeline that runs them.
ROOMS: dict[str, set[str]] = {
    "ground": set(),
    "config": {"ground"},
    "papers": {"ground", "config"},
    "models": {"ground", "config"},
    "distributed": {"ground", "config"},
    "evaluation": {"ground", "config", "papers", "models", "distributed"},
    "comparison": {"ground", "config"},
    "pruning": {"ground", "config"},
    "sweeping": {"ground", "config"},
    "checkpoints": {"ground", "config", "models", "distributed"},
    "planning": {"ground", "config", "papers", "models", "distributed"},
    "training": {
        *("ground", "config", "papers", "models", "distributed"),
        *("evaluation", "checkpoints", "planning"),
    },
    "releasing": {"ground", "config", "papers", "models", "evaluation", "comparison"},
    "reports": {
        *("ground", "config", "papers", "models", "evaluation", "comparison", "planning"),
        *("releasing", "sweeping"),
    },
    "tracking": {
        *("ground", "config", "papers", "models", "distributed", "evaluation", "comparison"),
        *("pruning", "sweeping", "checkpoints", "planning", "training", "releasing", "reports"),
    },
    "scripts": {
        *("ground", "config", "papers", "models", "distributed", "evaluation", "comparison"),
        *("pruning", "sweeping", "checkpoints", "planning", "training", "releasing", "reports"),
        "tracking",
    },
}
GROUND = {
    "allocator",
    "cache_folder",
    "messages",
    "digests",
    "errors",
    "extras",
    "metrics",
    "outcome",
    "recorder",
    "signals",
    "terminal",
    "progress",
}
# What scripts may import of one another: the common part of their command lines.
SHARED_BY_SCRIPTS = "steps.cli"

MOST_LINES_OF_FUNCTION = 80
MOST_PARAMETERS = 8
MOST_LINES_OF_FILE = 500


def module_name(file: Path) -> str:
    """The dotted name of a file of steps/; that of its folder for an `__init__`."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, ast.Module]:
    """Each module of steps/ as a syntax tree."""
    # Links to the table of metrics stand beside the modules of the `evaluate` library.
    files = sorted(file for file in STEPS.rglob("*.py") if not file.is_symlink())
    return {module_name(file): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def room_of(module: str) -> str:
    """The room that a module stands in."""
    inside = module.split(".")[1:]
    if not inside or inside[0] in GROUND:
        return "ground"
    return inside[0] if inside[0] in ROOMS else "scripts"


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports, wherever the import stands in it, for types or to run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            if (node.level, node.module) == (1, "table"):
                yield "steps.metrics"
                continue
            assert node.level == 0, "imports name the whole way from the top"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield longer if longer in sources() else node.module


@cache
def arrows() -> dict[str, set[str]]:
    """For each module the modules of steps/ that it imports."""
    return {name: set(imported(tree)) & sources().keys() for name, tree in sources().items()}


def test_every_folder_is_a_room() -> None:
    folders = {file.name for file in STEPS.iterdir() if (file / "__init__.py").is_file()}
    assert folders == ROOMS.keys() - {"ground", "scripts"}
    for place, room in enumerate(ROOMS):
        assert ROOMS[room] <= set(list(ROOMS)[:place]), f"{room} may import only what stands below"


def test_arrows_point_down() -> None:
    wrong = [
        f"{module} -> {other}"
        for module, others in arrows().items()
        for other in sorted(others)
        if room_of(other) not in ROOMS[room_of(module)] | {room_of(module)}
    ]
    assert wrong == []


def test_no_module_imports_a_step() -> None:
    wrong = [
        f"{module} -> {other}"
        for module, others in arrows().items()
        for other in sorted(others)
        if room_of(other) == "scripts" and other != SHARED_BY_SCRIPTS
    ]
    assert wrong == []


def test_imports_run_in_no_circle() -> None:
    open_modules: list[str] = []
    closed: set[str] = set()

    def follow(module: str) -> None:
        if module in open_modules:
            circle = [*open_modules[open_modules.index(module) :], module]
            pytest.fail(" -> ".join(circle))
        if module not in closed:
            open_modules.append(module)
            for other in sorted(arrows()[module] - {module}):
                follow(other)
            closed.add(open_modules.pop())

    for module in arrows():
        follow(module)


def test_only_tracking_imports_mlflow() -> None:
    importers = {
        module
        for module, tree in sources().items()
        if any(name.split(".")[0] == "mlflow" for name in imported(tree))
    }
    assert {room_of(module) for module in importers} == {"tracking"}


def test_each_package_says_in_one_line_what_it_is_for() -> None:
    for file in STEPS.rglob("__init__.py"):
        words = ast.get_docstring(sources()[module_name(file)])
        assert words, file
        assert len(words.splitlines()) == 1 and len(words) > 20, file


def too_large() -> set[str]:
    """Functions and files over the limits, as `file.py` and `file.py:function`."""
    found = set()
    for folder in ("steps", "tests", "tools", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if len(text.splitlines()) > MOST_LINES_OF_FILE:
                found.add(file.name)
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                parameters = [argument for argument in given if argument.arg not in ("self", "cls")]
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES_OF_FUNCTION or len(parameters) > MOST_PARAMETERS:
                    found.add(f"{file.name}:{node.name}")
    return found


def test_what_is_larger_than_a_reader_holds_in_mind_is_named_with_its_reason() -> None:
    known = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    unnamed = {name for name in too_large() if f"`{name}`" not in known}
    assert unnamed == set()
    assert len({name for name in too_large() if ":" in name}) <= 10
    assert len({name for name in too_large() if ":" not in name}) <= 5


def test_helpers_of_tests_stand_in_support() -> None:
    wrong = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                wrong += [f"{file.name}: {name}" for name in names if ".test_" in name]
                wrong += [f"{file.name}: {name}" for name in names if ".conftest." in name]
    assert wrong == []
