"""The public surface of a package as text: names and signatures, read from its source and not from its objects.

So it is the same under every version of Python, and a change of the contract is seen in review.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def surface_of(package: Path, name: str) -> str:
    """Every public name of the modules in the folder `package`, sorted, with what a caller must know of it."""
    lines: list[str] = []
    for file in sorted(package.glob("*.py")):
        if file.stem.startswith("_"):
            continue
        found = list(_members(ast.parse(file.read_text("utf-8")).body))
        if found:
            lines += [f"{name}.{file.stem}", *(f"    {line}" for line in found), ""]
    return "\n".join(lines)


def _members(body: list[ast.stmt]) -> Iterator[str]:
    """The lines of all public members of a module or class, sorted by name."""
    named = [(_name(node), node) for node in body]
    for name, node in sorted(((name, node) for name, node in named if name), key=lambda pair: pair[0]):
        if name == "__init__" or not name.startswith("_"):
            yield from _lines(node)


def _name(node: ast.stmt) -> str:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case ast.Assign(targets=[ast.Name(id=name), *_], value=value) if not _is_type_variable(value):
            return name
        case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id=name), *_])]):
            return name
        case _:
            return ""


def _is_type_variable(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "TypeVar"


def _lines(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.ClassDef():
            yield from (f"@{ast.unparse(decorator)}" for decorator in node.decorator_list)
            bases = [ast.unparse(base) for base in [*node.bases, *(word.value for word in node.keywords)]]
            yield f"class {node.name}({', '.join(bases)})" if bases else f"class {node.name}"
            yield from (f"    {line}" for line in _members(node.body))
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from (f"@{ast.unparse(decorator)}" for decorator in node.decorator_list)
            kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
            gives = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            yield f"{kind} {node.name}({ast.unparse(node.args)}){gives}"
        case _:
            yield ast.unparse(node)
