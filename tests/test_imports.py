"""Which parts of the program may know which: no cycles, nothing above the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import moderate

ROOT = Path(moderate.__file__).parent
HEAVY = {"torch", "timm", "transformers", "pyarrow", "openvino", "onnxruntime"}
"""Packages that take long to import, or memory that every decoder process would pay for."""

Imports = Mapping[str, Iterable[str]]
"""What each module imports, by full names."""


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def imported(tree: ast.AST, module: str, *, in_functions: bool = True) -> Iterator[str]:
    """The names of what a module imports, but for what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            children: list[ast.AST] = list(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
            continue
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            children = [node] if in_functions else []
        else:
            children = [node]
        for child in children:
            yield from imported(child, module, in_functions=in_functions)


def all_imports(*, in_functions: bool = True) -> dict[str, list[str]]:
    return {
        module: list(imported(ast.parse(file.read_bytes()), module, in_functions=in_functions))
        for module, file in MODULES.items()
    }


def package(module: str) -> str:
    """The first name below `moderate`: a folder, or a module that stands by itself."""
    return module.split(".")[1]


def between_packages(imports: Imports) -> dict[str, dict[str, list[str]]]:
    """For each package what it imports of which others, as `MODULE imports MODULE`."""
    graph: dict[str, dict[str, list[str]]] = {}
    for module, names in imports.items():
        if module in {"moderate", "moderate.__main__"}:
            continue
        edges = graph.setdefault(package(module), {})
        for name in names:
            inside = name.startswith("moderate.") and package(name) != package(module)
            if inside:
                edges.setdefault(package(name), []).append(f"{module} imports {name}")
    return graph


def find_cycle(graph: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """The imports that lead from a package back to itself, the first of each step; else none."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            ring = [*path[path.index(name) :], name]
            return [graph[a][b][0] for a, b in pairwise(ring)]
        if name not in finished:
            for other in graph.get(name, {}):
                if cycle := visit(other, [*path, name]):
                    return cycle
            finished.add(name)
        return []

    return next((cycle for name in graph if (cycle := visit(name, []))), [])


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    cycle = find_cycle(between_packages(all_imports()))
    assert not cycle, "a cycle of imports:\n  " + "\n  ".join(cycle)


def test_a_cycle_would_be_found_and_named() -> None:
    assert find_cycle(
        between_packages(
            {
                "moderate.a.x": ["moderate.b", "json"],
                "moderate.b": ["moderate.c.y"],
                "moderate.c.y": ["moderate.c.z"],
                "moderate.c.z": ["moderate.a.x"],
            }
        )
    ) == [
        "moderate.a.x imports moderate.b",
        "moderate.b imports moderate.c.y",
        "moderate.c.z imports moderate.a.x",
    ]
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import moderate.api\n"
        "class A:\n    def f(self):\n        from moderate import text\n"
    )
    tree = ast.parse(source)
    assert list(imported(tree, "m")) == ["typing", "moderate.text"]
    assert list(imported(tree, "m", in_functions=False)) == ["typing"]


def test_only_the_entry_points_import_the_command_line() -> None:
    importers = {
        module
        for module, names in all_imports().items()
        if any(name.startswith("moderate.cli") for name in names)
        and not module.startswith("moderate.cli")
    }
    assert importers == {"moderate.__main__"}


def test_decoders_import_nothing_heavy() -> None:
    """Neither do the modules that they import, directly or through others."""
    imports = all_imports(in_functions=False)
    pending = [module for module in MODULES if module.startswith("moderate.decode")]
    importers = dict.fromkeys(pending, "")
    while pending:
        module = pending.pop()
        for name in imports[module]:
            assert name.split(".")[0] not in HEAVY, (
                f"{module} imports {name}, and {importers[module] or 'it is a decoder module'}"
            )
            if name in MODULES and name not in importers:
                importers[name] = f"{module} imports it"
                pending.append(name)
