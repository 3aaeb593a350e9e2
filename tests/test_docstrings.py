"""What the docstrings say of arguments, against the signatures."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sota_dqn"

# Where one line stands for arguments that another docstring describes.
SHORTENED = {"DQNLearner", "SequenceLearner", "OneStepLearner.gradient"}


def documented(docstring: str) -> list[str] | None:
    """Returns the names in the section Args, None where there is none."""
    section = re.search(r"^Args:\n((?: {4}.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    return None if section is None else re.findall(r"^ {4}(\*{0,2}\w+):", section[1], re.MULTILINE)


def taken(function: ast.FunctionDef) -> list[str]:
    """Returns the names of a function's arguments, in their order."""
    given = function.args
    several = [f"*{given.vararg.arg}"] if given.vararg else []
    named = [f"**{given.kwarg.arg}"] if given.kwarg else []
    names = [one.arg for one in [*given.posonlyargs, *given.args]]
    names = [*names, *several, *(one.arg for one in given.kwonlyargs), *named]
    return [name for name in names if name not in ("self", "cls")]


def described(tree: ast.AST, inside: str = ""):
    """Yields the name, the docstring and the function of all that a module defines: of a class, `__init__`."""
    for node in ast.iter_child_nodes(tree):
        name = f"{inside}{getattr(node, 'name', '')}"
        if isinstance(node, ast.ClassDef):
            made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
            yield from ((name, ast.get_docstring(node), one) for one in made)
            yield from described(node, f"{name}.")
        elif isinstance(node, ast.FunctionDef):
            yield name, ast.get_docstring(node), node


def test_sections_are_found():
    docstring = "Does.\n\nArgs:\n    a: One,\n        with: more.\n    **b: Two.\n\nReturns:\n    c: three."
    assert documented(docstring) == ["a", "**b"]
    assert documented("Does.") is None
    (function,) = ast.parse("def f(self, a, /, b, *c, d=1, **e): ...").body
    assert isinstance(function, ast.FunctionDef)
    assert taken(function) == ["a", "b", "*c", "d", "**e"]


def test_arguments_are_those_of_the_signature():
    checked, wrong = 0, {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, docstring, function in described(ast.parse(path.read_text(encoding="utf-8"))):
            names = documented(docstring) if docstring else None
            if names is None or name in SHORTENED:
                continue
            checked += 1
            if names != taken(function):
                wrong[f"{path.name}: {name}"] = sorted(set(names) ^ set(taken(function)))
    assert checked > 100
    assert not wrong
