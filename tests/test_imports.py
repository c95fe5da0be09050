"""Who imports whom, rooms only from rooms below and no circle; and how long files are."""

import ast
from pathlib import Path

import pytest

import sa_flax

ROOT = Path(sa_flax.__file__).parent


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in ROOT.rglob("*.py")}


# From the ground up. The package's own file names the face, and imports it on first use.
ROOMS = (
    *("functional", "errors", "limits", "strict_json", "files", "remote", "noise", "config"),
    *("xla_flags", "sa_flax", "modules", "pictures", "models", "data", "porting", "inference"),
    *("training", "cli"),
)


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imported(tree: ast.AST) -> list[str]:
    """Dotted names of all that is imported, at the top and inside functions alike."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if for_type_checkers(node):
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports here name the whole package"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            found += imported(node)
    return found


def module_of(name: str) -> str | None:
    """The file of this package that a dotted name is in, or is."""
    while name:
        if name in FILES:
            return name
        name = name.rpartition(".")[0]
    return None


IMPORTS = {name: imported(ast.parse(path.read_text())) for name, path in FILES.items()}
EDGES = {
    name: {m for m in map(module_of, names) if m not in (None, name)}
    for name, names in IMPORTS.items()
}


def test_the_walk_sees_what_is_there():
    assert "sa_flax.functional._shuffle.parts" in EDGES["sa_flax.functional._shuffle.api"]
    assert "sa_flax.functional" in EDGES["sa_flax.modules.shuffle_attention"]
    # Inside a function, and for the type checker alone.
    inside = "def f():\n    if x:\n        from sa_flax.errors import InputError\n"
    assert imported(ast.parse(inside)) == ["sa_flax.errors.InputError"]
    assert imported(ast.parse("if TYPE_CHECKING:\n    import sa_flax.errors\n")) == []


def test_files_are_read_in_one_sitting():
    house = ROOT.parent
    rooms = ("sa_flax", "tests", "benchmarks", "docs", "notebooks")
    files = [house / "train.py", *(path for room in rooms for path in (house / room).rglob("*.py"))]
    long = {path.name: len(path.read_text().splitlines()) for path in files}
    assert not {name: lines for name, lines in long.items() if lines >= 400}


def test_nothing_imports_itself_by_way_of_others():
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            pytest.fail("a circle of imports: " + " -> ".join([*way[way.index(name) :], name]))
        if name not in done:
            for below in sorted(EDGES[name]):
                walk(below, (*way, name))
            done.add(name)

    for name in sorted(EDGES):
        walk(name, ())


def test_rooms_import_from_rooms_below():
    def height(name: str) -> int:
        return ROOMS.index(name.split(".")[1] if "." in name else name)

    upwards = [
        f"{name} imports {below}"
        for name, edges in EDGES.items()
        for below in edges
        if height(below) > height(name)
    ]
    assert not upwards


def test_pure_functions_import_jax_and_each_other_only():
    allowed = {"jax", "jaxtyping", "numpy", "collections", "functools", "itertools", "math"}
    allowed |= {"contextlib", "contextvars", "dataclasses", "operator", "typing"}
    for name, names in IMPORTS.items():
        if name.startswith("sa_flax.functional"):
            outside = {n for n in names if not n.startswith("sa_flax.functional")}
            assert {n.partition(".")[0] for n in outside} <= allowed, name


def test_layers_import_no_network():
    for name in EDGES:
        if name.startswith("sa_flax.modules"):
            rooms = {below.split(".")[1] for below in EDGES[name] if below.count(".")}
            assert rooms <= {"modules", "functional", "errors"}, name


def test_shuffle_attention_is_read_from_the_bottom_up():
    files = ["cpu", "parts", "passes", "derivative", "api"]
    room = "sa_flax.functional._shuffle"
    for place, file in enumerate(files):
        above = {f"{room}.{other}" for other in files[place:]}
        assert not EDGES[f"{room}.{file}"] & above, file
