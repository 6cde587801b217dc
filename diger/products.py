"""Small matrix products in float32, for the loops of ``diger.blocks`` to call.

A library's product of a few thousand numbers is mostly not the product: it is asked for, checks,
and copies its factors into an order of its own, and that twice over where heads lie apart in
memory. Here are only tiles: some rows by some vectors of the result, held in registers while one
column of the left factor after the other meets one row of the right one (Goto and van de Geijn,
"Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008). Nothing is copied, so that
factors had better lie in the near caches. They are written in LLVM's own language, because what a
compiler makes of three nested loops is a fraction of it.

Every element is the sum over k = 0, 1, ... in this order, each product added without being rounded,
whatever the shapes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core.errors import RequireLiteralValue
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

Floats = NDArray[np.float32]
operation: Any = intrinsic  # what these make takes no context, which its type does not say

#: Of the processor that numba compiles for, with a sign each.
_FEATURES = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
_ON_X86 = binding.get_default_triple().startswith(("x86", "i386", "i686"))

#: float32 of a vector, and how many registers hold one.
LANES, REGISTERS = (
    (16, 32) if "+avx512f" in _FEATURES
    else (8, 16) if "+avx2" in _FEATURES
    else (4, 16) if _ON_X86
    else (4, 32)
)  # fmt: skip
#: Vectors of a tile at most, and rows of one of two and one of one. Sums take half of the registers
#: and more, and there are enough of them that none is added to before its last addition is done.
MOST = 4 if REGISTERS == 32 else 3
TALL = 8 if REGISTERS == 32 else 6
LINE = 16  # float32 that come from memory together


def available() -> bool:
    """Whether the processor adds a product in one go: if not, each were a call of a function."""
    return "+fma" in _FEATURES or not _ON_X86


_INT64, _PLACE = types.int64, types.CPointer(types.float32)  # type: ignore[no-untyped-call]
_FLOAT, _INT, _INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_POINTER = _FLOAT.as_pointer()
_ALIGNED = ir.Constant(_INT, 4)


def _known(module: ir.Module, name: str, returns: ir.Type, *takes: ir.Type) -> ir.Function:
    found = module.globals.get(name)
    return found or ir.Function(module, ir.FunctionType(returns, takes), name)


class _Tile:
    """The function c[i, j] = (add c[i, j]) + sum_k a[i, k] b[k, j] of one tile, i < rows.

    Its arguments: a, from one row of it to the next, and from one column; b and c, with those from
    one row to the next; how many k; whether c is added to; how many lanes of the last vector are.
    """

    def __init__(self, module: ir.Module, rows: int, vectors: int) -> None:
        self.rows, self.vectors, self.module = rows, vectors, module
        takes = [_POINTER, *[_INDEX] * 2, _POINTER, _INDEX, _POINTER, *[_INDEX] * 4]
        name = f"diger_tile_{rows}_{vectors}"
        self.made = name in module.globals
        self.function = _known(module, name, ir.VoidType(), *takes)
        if not self.made:
            self.function.linkage = "internal"
            self.function.attributes.add("noinline")
            self._build()

    def _build(self) -> None:
        a, a_row, a_column, b, b_row, c, c_row, k, add, last = self.function.args
        entry, loop, end, more, done = (
            self.function.append_basic_block(name) for name in ("entry", "k", "end", "add", "done")
        )
        at = ir.IRBuilder(entry)
        lanes = ir.Constant(ir.VectorType(_INT, LANES), list(range(LANES)))
        self.mask = at.icmp_signed("<", lanes, self._spread(at, at.trunc(last, _INT)))
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        tile = [(i, j) for i in range(self.rows) for j in range(self.vectors)]
        at.cbranch(at.icmp_signed(">", k, ir.Constant(_INDEX, 0)), loop, end)

        at = ir.IRBuilder(loop)
        step = at.phi(_INDEX)
        sums = {place: at.phi(_VECTOR) for place in tile}
        a_k, b_k = at.gep(a, [at.mul(step, a_column)]), at.gep(b, [at.mul(step, b_row)])
        of_b = [self._load(at, b_k, j) for j in range(self.vectors)]
        fused = _known(self.module, f"llvm.fma.v{LANES}f32", _VECTOR, *[_VECTOR] * 3)
        summed = {}
        for i in range(self.rows):
            of_a = self._spread(at, at.load(at.gep(a_k, [at.mul(a_row, _index(i))])))
            for j in range(self.vectors):
                summed[i, j] = at.call(fused, [of_a, of_b[j], sums[i, j]])
        following = at.add(step, _index(1))
        for phi, first, then in [(step, _index(0), following)] + [
            (sums[place], zero, summed[place]) for place in tile
        ]:
            phi.add_incoming(first, entry)
            phi.add_incoming(then, loop)
        at.cbranch(at.icmp_signed("<", following, k), loop, end)

        at = ir.IRBuilder(end)
        found = {place: _either(at, (zero, entry), (summed[place], loop)) for place in tile}
        at.cbranch(at.icmp_signed("!=", add, _index(0)), more, done)
        at = ir.IRBuilder(more)
        row = {i: at.gep(c, [at.mul(c_row, _index(i))]) for i in range(self.rows)}
        both = {(i, j): at.fadd(found[i, j], self._load(at, row[i], j)) for i, j in tile}
        at.branch(done)
        at = ir.IRBuilder(done)
        wanted = {place: _either(at, (found[place], end), (both[place], more)) for place in tile}
        for i, j in tile:
            self._store(at, wanted[i, j], at.gep(c, [at.mul(c_row, _index(i))]), j)
        at.ret_void()

    @staticmethod
    def _spread(at: ir.IRBuilder, value: ir.Value) -> ir.Value:
        """The value in every lane."""
        kind = ir.VectorType(value.type, LANES)
        nothing = ir.Constant(kind, ir.Undefined)
        one = at.insert_element(nothing, value, ir.Constant(_INT, 0))
        return at.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))

    def _place(self, at: ir.IRBuilder, row: ir.Value, j: int) -> ir.Value:
        return at.bitcast(at.gep(row, [_index(j * LANES)]), _VECTOR.as_pointer())

    def _load(self, at: ir.IRBuilder, row: ir.Value, j: int) -> ir.Value:
        place = self._place(at, row, j)
        if j < self.vectors - 1:
            return at.load(place, align=4)
        name = f"llvm.masked.load.v{LANES}f32.p0"
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        load = _known(
            self.module, name, _VECTOR, place.type, _INT, self.mask.type, _VECTOR
        )  # fmt: skip
        return at.call(load, [place, _ALIGNED, self.mask, zero])

    def _store(self, at: ir.IRBuilder, value: ir.Value, row: ir.Value, j: int) -> None:
        place = self._place(at, row, j)
        if j < self.vectors - 1:
            at.store(value, place, align=4)
            return
        name = f"llvm.masked.store.v{LANES}f32.p0"
        store = _known(
            self.module, name, ir.VoidType(), _VECTOR, place.type, _INT, self.mask.type
        )  # fmt: skip
        at.call(store, [value, place, _ALIGNED, self.mask])


def _index(i: int) -> ir.Constant:
    return ir.Constant(_INDEX, i)


def _either(at: ir.IRBuilder, *ways: tuple[ir.Value, ir.Block]) -> ir.Value:
    """The value of whichever block came before."""
    phi = at.phi(ways[0][0].type)
    for value, block in ways:
        phi.add_incoming(value, block)
    return phi


@operation(prefer_literal=True)  # type: ignore[untyped-decorator]
def _tile(
    context: Any, rows: Any, vectors: Any, a: Any, a_row: Any, a_column: Any, b: Any, b_row: Any,
    c: Any, c_row: Any, k: Any, add: Any, last: Any,
) -> Any:  # fmt: skip
    """See ``_Tile``."""
    if not all(isinstance(size, types.IntegerLiteral) for size in (rows, vectors)):
        raise RequireLiteralValue("the sizes of a tile are constants")
    takes = (_PLACE, _INT64, _INT64, _PLACE, _INT64, _PLACE, *[_INT64] * 4)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile = _Tile(builder.module, rows.literal_value, vectors.literal_value)
        given = [
            builder.bitcast(value, kind) if isinstance(kind, ir.PointerType) else value
            for value, kind in zip(arguments[2:], tile.function.function_type.args, strict=True)
        ]
        builder.call(tile.function, given)
        return context.get_dummy_value()

    return types.void(rows, vectors, *takes), codegen


@operation  # type: ignore[untyped-decorator]
def _first(context: Any, array: Any) -> Any:
    """Where an array's first number lies."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return _PLACE(array), codegen


@operation  # type: ignore[untyped-decorator]
def _moved(context: Any, pointer: Any, by: Any) -> Any:
    """Where the number lies that is so many behind this one."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return _PLACE(pointer, _INT64), codegen


@operation  # type: ignore[untyped-decorator]
def _ask_for(context: Any, pointer: Any) -> Any:
    """Have the cache line of this number brought near, and wait for nothing."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        asked = _known(builder.module, "llvm.prefetch.p0", ir.VoidType(), byte, _INT, _INT, _INT)
        for_reading, level, data = (ir.Constant(_INT, value) for value in (0, 2, 1))
        place = builder.bitcast(arguments[0], byte)
        builder.call(asked, [place, for_reading, level, data])
        return context.get_dummy_value()

    return types.void(pointer), codegen


NOTHING: Floats = np.zeros(0, np.float32)


@numba.njit(
    types.void(*[_PLACE, _INT64, _INT64, _PLACE, _INT64, _PLACE], *[_INT64] * 5, _PLACE, _INT64),
    cache=True,
)  # type: ignore[untyped-decorator]
def _multiply(
    a: Any, a_row: int, a_column: int, b: Any, b_row: int, c: Any, c_row: int, m: int, n: int,
    k: int, add: int, ahead: Any, wanted: int,
) -> None:  # fmt: skip
    tiles = (n + MOST * LANES - 1) // (MOST * LANES) * max(m // 4, 1)
    share = (wanted // tiles + LINE) // LINE * LINE
    asked = j = 0
    while j < n:
        vectors = min((n - j + LANES - 1) // LANES, MOST)
        columns = min(n - j, vectors * LANES)
        last = columns - (vectors - 1) * LANES
        b_j, c_j = _moved(b, j), _moved(c, j)
        i = 0
        while i < m:
            until = min(asked + share, wanted)
            while asked < until:
                _ask_for(_moved(ahead, asked))
                asked += LINE
            a_i, c_i, left, rows = _moved(a, i * a_row), _moved(c_j, i * c_row), m - i, 1
            if vectors == MOST:
                if left >= 4:
                    rows = 4
                    _tile(4, MOST, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
                else:
                    _tile(1, MOST, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
            elif vectors == 3:
                if left >= 4:
                    rows = 4
                    _tile(4, 3, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
                else:
                    _tile(1, 3, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
            elif vectors == 2:
                if left >= TALL:
                    rows = TALL
                    _tile(TALL, 2, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
                elif left >= 4:
                    rows = 4
                    _tile(4, 2, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
                else:
                    _tile(1, 2, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
            elif left >= 8:
                rows = 8
                _tile(8, 1, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
            elif left >= 4:
                rows = 4
                _tile(4, 1, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
            else:
                _tile(1, 1, a_i, a_row, a_column, b_j, b_row, c_i, c_row, k, add, last)
            i += rows
        j += columns


@numba.njit(cache=True)
def _product(a: Floats, b: Floats, c: Floats, add: int, ahead: Floats) -> None:
    _multiply(
        _first(a), a.strides[0] // 4, a.strides[1] // 4, _first(b), b.strides[0] // 4,
        _first(c), c.strides[0] // 4, a.shape[0], b.shape[1], a.shape[1], add,
        _first(ahead), ahead.size,
    )  # fmt: skip


@numba.njit(cache=True)
def multiply(a_MxK: Floats, b_KxN: Floats, c_MxN: Floats) -> None:
    """c = a b. The rows of b and c are contiguous, and c is none of the factors."""
    _product(a_MxK, b_KxN, c_MxN, 0, NOTHING)


@numba.njit(cache=True)
def multiply_add(a_MxK: Floats, b_KxN: Floats, c_MxN: Floats) -> None:
    """c += a b, as ``multiply``."""
    _product(a_MxK, b_KxN, c_MxN, 1, NOTHING)


@numba.njit(cache=True)
def multiply_while(a_MxK: Floats, b_KxN: Floats, c_MxN: Floats, ahead: Floats) -> None:
    """``multiply``, and meanwhile have these numbers brought near that will be read soon, [n]."""
    _product(a_MxK, b_KxN, c_MxN, 0, ahead)


@numba.njit(cache=True)
def multiply_add_while(a_MxK: Floats, b_KxN: Floats, c_MxN: Floats, ahead: Floats) -> None:
    """``multiply_add``, and the same."""
    _product(a_MxK, b_KxN, c_MxN, 1, ahead)
