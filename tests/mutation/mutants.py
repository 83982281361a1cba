"""Mutants: the places of a source file where one small change makes the program do something else.

Left out is what is no behaviour: docstrings, annotations, `__all__`, decorators, assertions, the words of messages, and
what type checkers alone read.
"""

import ast
import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC: dict[type[ast.operator], ast.operator] = {
    ast.Add: ast.Sub(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.Div(),
    ast.Div: ast.Mult(),
    ast.FloorDiv: ast.Mult(),
    ast.Mod: ast.FloorDiv(),
    ast.Pow: ast.Mult(),
    ast.BitAnd: ast.BitOr(),
    ast.BitOr: ast.BitAnd(),
}
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any", "amin": "amax", "amax": "amin"}
HINTS = {"strict", "stacklevel", "flush", "daemon", "maxsize", "non_blocking"}
"""Keyword arguments that change nothing in a program without a mistake."""
UNSWAPPED = {"isinstance", "getattr", "hasattr", "setattr", "cast", "min", "max", "minimum", "maximum", "equal"}
"""Calls whose arguments in the other order mean the same, or nothing in any program."""
SPEAKERS = {"warn", "print", "rank_zero_warn", "rank_zero_info", "info", "debug", "warning", "write_line"}
"""What is handed to these is read by people; whether they are called at all is behaviour."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: str
    """Of the file, below the root."""
    line: int
    operator: str
    start: int
    end: int
    """Bytes that the new text takes the place of."""
    text: str

    def apply(self, source: bytes) -> bytes:
        """The changed file."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        """Its lines that change."""
        before, after = (text.decode().splitlines() for text in (source, self.apply(source)))
        lines = list(difflib.unified_diff(before, after, lineterm="", n=0))[3:]
        return "\n".join(line for line in lines if not line.startswith("@@"))

    def key(self, source: bytes) -> str:
        """Tells it from the others, also when other lines of the file have moved."""
        number = source[: self.start].count(source[self.start : self.end])
        words = f"{self.path}|{self.diff(source)}|{self.operator}|{number}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]


def mutants_of(root: Path, path: Path) -> list[Mutant]:
    """All mutants of a file."""
    source = path.read_bytes()
    finder = _Finder(source, path.relative_to(root).as_posix())
    finder.visit_body(ast.parse(source))
    return finder.found


def differs(mutant: Mutant, source: bytes) -> bool:
    """Whether it is another program, and one that Python can read: `f(x, x)` with swapped arguments is not."""
    try:
        return ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


class _Finder(ast.NodeVisitor):
    """Walks through a file and collects its mutants."""

    def __init__(self, source: bytes, path: str) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._source = source
        lengths = [len(line) for line in source.splitlines(keepends=True)]
        self._starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]

    # Statements

    def visit_body(self, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> None:
        """What stands in a file, class or function, without its docstring."""
        for place, statement in enumerate(node.body):
            text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not text and not (place == 0 and ast.get_docstring(node, clean=False)):
                self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        if "Protocol" not in bases and "TypedDict" not in bases:
            self.visit_body(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(default)
        self.visit_body(node)

    def visit_If(self, node: ast.If) -> None:
        condition = ast.unparse(node.test)
        if "TYPE_CHECKING" in condition or "__debug__" in condition or "__name__" in condition:
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Assertions tell type checkers what holds."""

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass", "dropped statement")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue", "break")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break", "continue")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._replace(node, "return None", "return value")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._replace(node, "pass", "dropped statement")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if "__all__" in names or "__slots__" in names:
            return
        if not names and not isinstance(node.targets[0], ast.Tuple):
            self._replace(node, "pass", "dropped statement")
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and "TypeAlias" not in ast.unparse(node.annotation):
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass", "dropped statement")
        if type(node.op) in ARITHMETIC and not _is_text(node.value):
            other = ast.AugAssign(target=node.target, op=ARITHMETIC[type(node.op)], value=node.value)
            self._replace(node, ast.unparse(other), "arithmetic")
        self.visit(node.value)

    # Expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
            self._replace(node, f"{left} {COMPARISONS[type(node.ops[0])]} {right}", "comparison")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.BoolOp(op=ast.Or() if isinstance(node.op, ast.And) else ast.And(), values=node.values)
        self._replace(node, f"({ast.unparse(other)})", "and/or")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        names = {ast.Not: "negation", ast.USub: "sign", ast.Invert: "inversion"}
        if type(node.op) in names:
            self._replace(node, f"({ast.unparse(node.operand)})", names[type(node.op)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC and not _is_text(node.left) and not _is_text(node.right):
            other = ast.BinOp(left=node.left, op=ARITHMETIC[type(node.op)], right=node.right)
            self._replace(node, f"({ast.unparse(other)})", "arithmetic")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._negate(condition)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value), "constant")
        elif isinstance(node.value, int):
            self._replace(node, str(node.value + 1), "constant")
        elif isinstance(node.value, float):
            self._replace(node, repr(node.value * 2 or 1.0), "constant")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Words."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if ast.unparse(node.value).rpartition(".")[2] not in ("Literal", "Annotated", "Callable", "Mapping", "Union"):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in SPEAKERS or name.endswith(("Error", "Warning", "Fault")):
            return
        if name in TWINS and isinstance(node.func, ast.Name | ast.Attribute):
            start = self._at(node.func.end_lineno, node.func.end_col_offset) - len(name)
            self._add(node.func, start, start + len(name), TWINS[name], "twin")
        plain = [argument for argument in node.args[:2] if not isinstance(argument, ast.Starred)]
        if len(plain) == 2 and name not in UNSWAPPED:
            first, second = plain
            between = self._source[self._end(first) : self._start(second)].decode()
            text = f"{self._text(second)}{between}{self._text(first)}"
            self._add(node, self._start(first), self._end(second), text, "swapped arguments")
        self.visit(node.func)
        for argument in node.args[1 if name == "cast" else 0 :]:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in HINTS:
                self.visit(keyword.value)

    # Text

    def _negate(self, condition: ast.expr) -> None:
        if not isinstance(condition, ast.Compare | ast.UnaryOp):  # those have a mutant that says the same
            self._replace(condition, f"(not ({ast.unparse(condition)}))", "condition")

    def _replace(self, node: ast.stmt | ast.expr, text: str, operator: str) -> None:
        self._add(node, self._start(node), self._end(node), text, operator)

    def _add(self, node: ast.stmt | ast.expr, start: int, end: int, text: str, operator: str) -> None:
        self.found.append(Mutant(self._path, node.lineno, operator, start, end, text))

    def _text(self, node: ast.expr) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _start(self, node: ast.stmt | ast.expr) -> int:
        return self._at(node.lineno, node.col_offset)

    def _end(self, node: ast.stmt | ast.expr) -> int:
        return self._at(node.end_lineno, node.end_col_offset)

    def _at(self, line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return self._starts[line - 1] + column


def _is_text(node: ast.expr) -> bool:
    """Minus between words is an error in every program."""
    return isinstance(node, ast.JoinedStr | ast.List | ast.ListComp | ast.Tuple) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
