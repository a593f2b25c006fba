"""A cursor over tokens that reads dims, types and attribute values. Knows no ops."""

from __future__ import annotations

from typing import NoReturn

from tfc.ir.attrs import AttrValue, ConstRef, Dense
from tfc.ir.dims import Dim, DimLike, apply_call, symbol, terms_of
from tfc.ir.errors import ModelError
from tfc.ir.text.lexer import (
    DIM_FUNCTIONS,
    RESERVED,
    is_symbol,
    is_word,
    position_of,
    tokens_of,
    unquote,
)
from tfc.ir.types import (
    DTYPES,
    BufferType,
    DType,
    Encoding,
    TensorType,
    Type,
    VectorType,
    row_major,
    scalar_of,
    vector_of,
)

# Bounds on what a text may ask for, so that a hostile one ends in an error and not in hours:
# nesting of brackets and regions, arguments of a dim function, products of terms, factors.
MAX_NESTING = 100
DIM_NESTING = 4
MAX_ARGS = 32
MAX_TERMS = 1024
MAX_DEGREE = 16
MAX_BITS = 128


class Problem(Exception):
    """What is wrong at the cursor, before it has a place."""


class Reader:
    """Reads from `text`; `types` remembers every type by its text."""

    def __init__(self, text: str, types: dict[str, Type] | None = None) -> None:
        self.text = text
        self.tokens = tokens_of(text)
        self.at = 0
        self.types: dict[str, Type] = {} if types is None else types
        self.depth = 0

    # -- tokens ---------------------------------------------------------------------------------

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        """Refuse the text at token `at`, which is the one under the cursor unless given."""
        raise Problem(message, self.at if at is None else at)

    def located(self, problem: Problem, filename: str) -> ModelError:
        message, at = problem.args
        line, column = position_of(self.text, at)
        return ModelError(message, where=f"{filename}:{line}:{column}")

    def found(self) -> str:
        token = self.tokens[self.at]
        if not token:
            return "the end of the text"
        return f"'{token}'" if len(token) <= 40 else f"'{token[:40]}...'"

    def take(self) -> str:
        token = self.tokens[self.at]
        if token:
            self.at += 1
        return token

    def expect(self, token: str) -> None:
        if self.tokens[self.at] != token:
            self.fail(f"expected '{token}', found {self.found()}")
        self.at += 1

    def accept(self, token: str) -> bool:
        if self.tokens[self.at] != token:
            return False
        self.at += 1
        return True

    def word(self, what: str) -> str:
        token = self.tokens[self.at]
        if not is_word(token):
            self.fail(f"expected {what}, found {self.found()}")
        self.at += 1
        return token

    def string(self) -> str:
        token = self.tokens[self.at]
        if len(token) < 2 or token[0] != '"':
            self.fail(f"expected a string, found {self.found()}")
        return self.unquoted(token)

    def unquoted(self, token: str) -> str:
        """Take the token under the cursor, `token` being its quoted part."""
        try:
            text = unquote(token)
        except (ValueError, OverflowError) as err:
            self.fail(f"bad string: {err}")
        self.at += 1
        return text

    def name(self, what: str) -> str:
        """A word or a string."""
        return self.string() if self.tokens[self.at][:1] == '"' else self.word(what)

    def sigil(self, sigil: str, what: str) -> str:
        """A name behind `%` or `@`."""
        token = self.tokens[self.at]
        if len(token) < 2 or token[0] != sigil:
            self.fail(f"expected {what}, found {self.found()}")
        if token[1] == '"':
            return self.unquoted(token[1:])
        self.at += 1
        return token[1:]

    def integer(self) -> int:
        negative = self.accept("-")
        token = self.tokens[self.at]
        if not _is_integer(token):
            self.fail(f"expected an integer, found {self.found()}")
        value = self.number(token)
        return -value if negative else value

    def number(self, token: str) -> int:
        if len(token) > MAX_BITS:
            self.fail("the number is too large")
        self.at += 1
        return int(token)

    def enter(self, levels: int = 1) -> None:
        self.depth += levels
        if self.depth > MAX_NESTING:
            self.fail("nested too deeply")

    def leave(self, levels: int = 1) -> None:
        self.depth -= levels

    # -- dims -----------------------------------------------------------------------------------

    def dim(self) -> DimLike:
        """A sum of products."""
        self.enter(DIM_NESTING)
        total = -self.product() if self.accept("-") else self.product()
        while self.tokens[self.at] in ("+", "-"):
            if self.take() == "+":
                total = total + self.product()
            else:
                total = total - self.product()
            if len(terms_of(total)) > MAX_TERMS:
                self.fail("the dim has too many terms")
        self.leave(DIM_NESTING)
        return total

    def product(self) -> DimLike:
        value = self.factor()
        while self.accept("*"):
            other = self.factor()
            a, b = terms_of(value), terms_of(other)
            if len(a) * len(b) > MAX_TERMS or _degree(value) + _degree(other) > MAX_DEGREE:
                self.fail("the dim has too many terms")
            value = value * other
            if isinstance(value, int) and value.bit_length() > 4 * MAX_BITS:
                self.fail("the number is too large")
        return value

    def factor(self) -> DimLike:
        token = self.tokens[self.at]
        if _is_integer(token):
            return self.number(token)
        if self.accept("("):
            value = self.dim()
            self.expect(")")
            return value
        if token in DIM_FUNCTIONS:
            return self.call(self.take())
        if not is_symbol(token):
            self.fail(f"expected a dim, found {self.found()}")
        self.at += 1
        return symbol(token)

    def call(self, fn: str) -> DimLike:
        start = self.at - 1
        self.expect("(")
        args = [self.dim()]
        while self.accept(","):
            args.append(self.dim())
        self.expect(")")
        if fn not in ("min", "max") and len(args) != 2:
            self.fail(f"{fn} takes two dims", start)
        if len(args) > MAX_ARGS:
            self.fail(f"{fn} of more than {MAX_ARGS} dims", start)
        if fn not in ("min", "max") and isinstance(args[1], int) and args[1] <= 0:
            self.fail(f"{fn} by {args[1]}", start)
        return apply_call(fn, args)

    def dims(self) -> tuple[DimLike, ...]:
        """Dims up to the closing bracket."""
        out: list[DimLike] = []
        while not self.accept("]"):
            if out:
                self.expect(",")
            out.append(self.dim())
        return tuple(out)

    # -- types ----------------------------------------------------------------------------------

    def type(self) -> Type:
        token = self.tokens[self.at]
        known = self.types.get(token)
        if known is None:
            if token in DTYPES:
                known = scalar_of(DTYPES[token])
            elif _is_nested(token):
                known = self.nested(token)
            else:
                self.fail(f"expected a type, found {self.found()}")
            self.types[token] = known
        self.at += 1
        return known

    def nested(self, token: str) -> Type:
        """Read a type that is one token here by the tokens that it is made of."""
        inner = Reader(token[4:-1] if token[-1] == ">" else token.replace("[", " [", 1), self.types)
        try:
            if token[-1] == "]":
                made: Type = inner.tensor_type()
            elif token.startswith("vec"):
                made = inner.vector_type()
            else:
                made = inner.buffer_type()
            if inner.tokens[inner.at]:
                inner.fail(f"unexpected {inner.found()}")
        except Problem as problem:
            self.fail(f"in '{token}': {problem.args[0]}")
        return made

    def dtype(self) -> DType:
        token = self.tokens[self.at]
        if token not in DTYPES:
            self.fail(f"expected an element type, found {self.found()}")
        self.at += 1
        return DTYPES[token]

    def tensor_type(self) -> TensorType:
        dtype = self.dtype()
        self.expect("[")
        return TensorType(dtype, self.dims())

    def vector_type(self) -> VectorType:
        """`16xf32`, which the lexer splits behind the digits."""
        lanes = self.integer()
        token = self.tokens[self.at]
        if token[:1] != "x" or token[1:] not in DTYPES or lanes < 1:
            self.fail("expected a vector type like vec<8xf32>")
        self.at += 1
        return vector_of(DTYPES[token[1:]], lanes)

    def buffer_type(self) -> BufferType:
        tensor = self.type()
        if not isinstance(tensor, TensorType):
            self.fail("expected an element type and a shape", 0)
        strides = row_major(tensor.shape)
        space = "global"
        while self.accept(","):
            word = self.word("strides or a memory space")
            if word == "strides":
                self.expect("=")
                self.expect("[")
                strides = self.dims()
                if len(strides) != tensor.rank:
                    self.fail(f"{len(strides)} strides for {tensor.rank} axes")
            else:
                space = word
        return BufferType(tensor.dtype, tensor.shape, strides, space)

    def encoding(self) -> Encoding | None:
        """What may stand behind a type: `perm=[...]`."""
        if self.tokens[self.at] != "perm":
            return None
        self.at += 1
        self.expect("=")
        return Encoding(self.integers())

    def integers(self) -> tuple[int, ...]:
        self.expect("[")
        out: list[int] = []
        while not self.accept("]"):
            if out:
                self.expect(",")
            out.append(self.integer())
        return tuple(out)

    # -- attribute values -----------------------------------------------------------------------

    def attr(self) -> AttrValue:
        """One attribute value, as `attrs.attr_text` prints it."""
        token = self.tokens[self.at]
        first = token[:1]
        if first == '"':
            return self.string()
        if token == "[":
            return self.tuple()
        if first == "@":
            return ConstRef(self.sigil("@", "a hash"))
        if token in DTYPES:
            self.at += 1
            return DTYPES[token]
        if _is_nested(token):
            return self.type()
        if token in RESERVED and token not in DIM_FUNCTIONS:
            return self.keyword(token)
        return self.scalar()

    def tuple(self) -> AttrValue:
        self.at += 1
        self.enter()
        out: list[AttrValue] = []
        while not self.accept("]"):
            if out:
                self.expect(",")
            out.append(self.attr())
        self.leave()
        return tuple(out)

    def keyword(self, token: str) -> AttrValue:
        if token in ("nan", "inf"):
            return self.scalar()
        if token == "complex":
            self.fail("complex numbers stand in dense(...) only")
        self.at += 1
        if token != "dense":
            return None if token == "none" else token == "true"
        self.expect("(")
        values: list[int | float | complex] = []
        while not self.accept(")"):
            if values:
                self.expect(",")
            values.append(self.literal())
        return Dense(tuple(values))

    def scalar(self) -> int | float | Dim:
        """A number, or a dim."""
        token = self.tokens[self.at]
        if token == "-":
            token = self.tokens[self.at + 1]
        return self.real() if _is_float(token) else self.dim()

    def literal(self) -> int | float | complex:
        negative = self.accept("-")
        token = self.tokens[self.at]
        value: int | float | complex
        if _is_integer(token):
            value = self.number(token)
        elif _is_float(token):
            self.at += 1
            value = float(token)
        elif token == "complex":
            self.at += 1
            self.expect("(")
            real = self.real()
            self.expect(",")
            value = complex(real, self.real())
            self.expect(")")
        else:
            self.fail(f"expected a number, found {self.found()}")
        return -value if negative else value

    def real(self) -> float:
        """A float, or an integer literal as one."""
        if self.tokens[self.at] == "complex":
            self.fail("a part of a complex number is complex")
        return float(self.literal().real)


def _degree(dim: DimLike) -> int:
    return max((len(mono) for mono, _ in terms_of(dim)), default=0)


# The lexer makes tokens of several characters in ASCII only, so the first one tells the kind.


def _is_integer(token: str) -> bool:
    return "0" <= token[:1] <= "9" and token.isdigit()


def _is_float(token: str) -> bool:
    return token in ("nan", "inf") or ("0" <= token[:1] <= "9" and not token.isdigit())


def _is_nested(token: str) -> bool:
    """Whether a token is a whole tensor, vector or buffer type."""
    return len(token) > 2 and token[-1] in "]>" and token[0] not in '"%@'
