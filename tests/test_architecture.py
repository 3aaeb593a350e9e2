"""The import rules, read from the syntax trees.

A module imports only from lower floors: types and backends, then the mathematics, then the parts, then the machines,
then the loop, then the algorithms. To add a module, name it on its floor below.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sota_dqn"
SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
MAX_LINES = 400

FLOORS = [
    {"version", "types", "checks", "files", "history", "backend"},
    {"targets", "returns", "losses", "schedules", "seeds", "graphs", "spaces"},
    {
        "layers",
        "mixtures",
        "policies",
        "preprocessing",
        "priorities",
        "samplers",
        "storage",
        "atari",
        "environments",
        "vectors",
        "models",
        "plots",
        "labels",
        "evaluation",
    },
    {
        "recurrent",
        "replay",
        "learner",
        "sequences",
        "acting",
        "actor",
        "actor_pool",
        "pace",
        "forkserver",
        "processes",
        "ray_actors",
        "remote_actor",
        "writer",
        "callbacks",
        "choice",
        "recorder",
        "reporting",
        "checkpoint",
        "snapshot",
        "shared",
        "workers",
        "worker_snapshot",
    },
    {"trainer_base"},
    {"trainer"},
    {"dqn", "one_step", "inference", "plot"},
    {"__init__"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}

# (importer, imported) on one floor.
SIDEWAYS = {
    ("actor_pool", "processes"),
    ("actor_pool", "remote_actor"),
    ("processes", "forkserver"),
    ("processes", "remote_actor"),
    ("ray_actors", "actor_pool"),
    ("ray_actors", "processes"),
    ("ray_actors", "remote_actor"),
    ("remote_actor", "actor"),
    ("remote_actor", "choice"),
    ("remote_actor", "recurrent"),
    ("acting", "actor"),
    ("acting", "actor_pool"),
    ("acting", "choice"),
    ("acting", "pace"),
    ("acting", "writer"),
    ("choice", "recurrent"),
    ("backend", "types"),
    ("evaluation", "environments"),
    ("evaluation", "vectors"),
    ("evaluation", "preprocessing"),
    ("sequences", "learner"),
    ("policies", "mixtures"),
    ("snapshot", "checkpoint"),
    ("worker_snapshot", "checkpoint"),
    ("worker_snapshot", "snapshot"),
    ("workers", "actor"),
    ("workers", "choice"),
}

# Who may import what not everyone may.
IMPORTERS = {
    "tensorflow": {"backend/tensorflow.py"},
    "jax": {"backend/jax.py"},
    "jaxlib": {"backend/jax.py"},
    "cv2": {"preprocessing.py", "recorder.py"},
    "matplotlib": {"plots.py"},
}

# Private attributes of other libraries' objects that have no public name.
PRIVATE = {
    "recurrent.py": {"_maybe_config_dropout_masks", "_maybe_reset_dropout_masks"},
    "snapshot.py": {"_fn_kwargs"},
}


def imports(tree: ast.AST, *, package: str = "sota_dqn") -> Iterator[str]:
    """Yields the full dotted name of everything imported in `tree`, inside functions too, by a module of `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            parents = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


def unit(name: str) -> str | None:
    """Returns the floor's name of what the dotted `name` belongs to, None outside the package.

    `sota_dqn.types.Steps` belongs to `types`, and `sota_dqn.DQNTrainer`, which is no module, to `__init__`.
    """
    root, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    if root != "sota_dqn":
        return None
    return first if first and ((PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file()) else "__init__"


def parse(source: str) -> ast.AST:
    return ast.parse((PACKAGE / source).read_text(encoding="utf-8"))


def imports_of(source: str) -> Iterator[str]:
    return imports(parse(source), package=".".join(["sota_dqn", *Path(source).parts[:-1]]))


def unit_of(source: str) -> str:
    return Path(source).parts[0].removesuffix(".py")


def test_imports_are_resolved():
    tree = ast.parse(
        "import a.b\nfrom c import d\nfrom . import e\ndef f():\n    from .g import h\n    from ..i import j"
    )
    resolved = {"a.b", "c.d", "sota_dqn.backend.e", "sota_dqn.backend.g.h", "sota_dqn.i.j"}
    assert set(imports(tree, package="sota_dqn.backend")) == resolved


def test_units_are_resolved():
    assert unit("sota_dqn.types.Steps") == unit("sota_dqn.types") == "types"
    assert unit("sota_dqn.backend.jax.Program") == "backend"
    assert unit("sota_dqn.DQNTrainer") == unit("sota_dqn") == "__init__"
    assert unit("sota_dqn_zoo.types") is None


@pytest.mark.parametrize("source", SOURCES)
def test_module_has_a_floor(source):
    assert unit_of(source) in FLOOR


@pytest.mark.parametrize("source", SOURCES)
def test_module_imports_from_lower_floors_only(source):
    importer = unit_of(source)
    imported = {name for name in map(unit, imports_of(source)) if name not in (None, importer)}
    assert not {name for name in imported if FLOOR[name] >= FLOOR[importer] and (importer, name) not in SIDEWAYS}


@pytest.mark.parametrize("source", SOURCES)
def test_library_is_imported_where_it_belongs(source):
    libraries = {name.partition(".")[0] for name in imports_of(source)}
    assert not {name for name in libraries if source not in IMPORTERS.get(name, {source})}


@pytest.mark.parametrize("source", SOURCES)
def test_keras_is_used_through_its_public_names(source):
    """Private names of Keras change without notice."""
    attributes = {ast.unparse(node) for node in ast.walk(parse(source)) if isinstance(node, ast.Attribute)}
    used = set(imports_of(source)) | attributes
    assert not {name for name in used if name == "keras.src" or name.startswith("keras.src.")}


def test_private_attributes_are_our_own():
    ours, used = {"_asdict", "_fields", "_replace"}, {}  # first those of named tuples, which are public
    for source in SOURCES:
        for node in ast.walk(parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                ours.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                ours.add(node.attr)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                used.setdefault(source, set()).add(node.attr)
    others = {source: names - ours for source, names in used.items() if names - ours}
    assert others == PRIVATE


@pytest.mark.parametrize("source", SOURCES)
def test_file_is_short(source):
    assert len((PACKAGE / source).read_text(encoding="utf-8").splitlines()) <= MAX_LINES
