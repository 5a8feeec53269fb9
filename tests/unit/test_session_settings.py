"""What we set in a MySQL session has the type that MySQL wants; MariaDB, which the other tests run, takes more.

MySQL refuses anything but an integer for a numeric variable (1232), and the result of a function such as LEAST is none
there: with `wait_timeout = LEAST(@@wait_timeout, …)` every command failed on MySQL 9.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import migrate

ROOT = Path(migrate.__file__).parent
#: Variables that are texts.
TEXTS = {"sql_mode", "binlog_format"}
#: Integers, and what is one whatever the server thinks of its operands.
INTEGER = re.compile(r"\d+|CAST\(.* AS (?:UN)?SIGNED\)")


def statements() -> Iterator[str]:
    """Each text in the code that sets session variables, with the values of its constants."""
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        if "SET SESSION" not in text:
            continue
        tree = ast.parse(text)
        pieces = {piece for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for piece in ast.walk(node)}
        whole: list[ast.expr] = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        whole += [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in pieces]
        for node in whole:
            source = ast.unparse(node)
            if "SET SESSION" not in source or "SESSION TRANSACTION" in source:
                continue
            name = ".".join(("migrate", *path.relative_to(ROOT).with_suffix("").parts))
            names = vars(importlib.import_module(name))
            yield str(eval(compile(ast.Expression(node), str(path), "eval"), dict(names)))


def test_numeric_variables_are_set_to_integers() -> None:
    found: dict[str, set[str]] = {}
    for statement in statements():
        assert statement.startswith("SET SESSION ")
        for assignment in re.split(r",\s+SESSION ", statement.removeprefix("SET SESSION ")):
            variable, _, value = assignment.partition(" = ")
            found.setdefault(variable, set()).add(value)
    assert {"wait_timeout", "lock_wait_timeout", "innodb_lock_wait_timeout", "sql_mode"} <= found.keys()
    wrong = {
        (variable, value)
        for variable, values in found.items()
        for value in values
        if variable not in TEXTS and not INTEGER.fullmatch(value)
    }
    assert not wrong
