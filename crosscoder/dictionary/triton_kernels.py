"""Triton kernels for `sparse_latents` and `topk_selection` on a GPU, where torch's own leave most of the bandwidth unused.

    weighted_sum   Σ value · rows[column] for every row of a sparse matrix
    products       ⟨directions[latent], targets[token]⟩ at its entries
    above          entries of a block that exceed the bound of their row

The kernels read rows in the order of the firings and accumulate in float32, in an order fixed by the firings alone, so
results are bitwise reproducible. Rows with many firings (a latent that fires on every token) are split into pieces of
`_PIECE` firings; a second kernel adds the partial sums.
"""
# pyright: reportCallIssue=false, reportIndexIssue=false, reportMissingImports=false
# Triton's decorator turns a function into a kernel launched with [grid] and extra options. Only CUDA builds of torch include Triton.

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

# Firings that one program sums, and firings per load.
_PIECE = 128
_AT_ONCE = 4

# Columns per load. A program is a single warp, so no thread waits for another: on an H200 the sums run at memory bandwidth,
# whereas four warps took three times as long on rows of 512 columns.
_COLUMNS = 512
_DOT_COLUMNS = 256

# Entries that one program of `above` scans.
_SCANNED = 2048


def weighted_sum(
    first: Int64[Tensor, " bound"],
    column: Int64[Tensor, " firing"],
    value: Float[Tensor, " firing"],
    rows: Float[Tensor, "column width"],
    dtype: torch.dtype,
) -> Float[Tensor, "row width"]:
    """Return Σ value · rows[column] over the firings of each row; `first` is the row pointer of a CSR matrix."""
    n_rows, width = len(first) - 1, rows.shape[1]
    sums = rows.new_empty(n_rows, width, dtype=dtype)
    if n_rows == 0 or width == 0:
        return sums
    # An upper bound: reading the exact number of pieces would synchronize with the device.
    most_pieces = n_rows + len(column) // _PIECE
    pieces = (first.diff() + (_PIECE - 1)).div(_PIECE, rounding_mode="floor").clamp(min=1)
    last_piece = pieces.cumsum(0)
    row_of_piece = torch.searchsorted(last_piece, torch.arange(most_pieces, device=first.device), right=True)
    # Rows of one piece are written directly. The others have at least _PIECE firings for every two pieces.
    part_end = torch.where(pieces > 1, pieces, 0).cumsum(0)
    parts = torch.empty(2 * (len(column) // _PIECE) + 1, width, dtype=torch.float32, device=rows.device)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    blocks = triton.cdiv(width, _COLUMNS)
    _sum_pieces[(most_pieces, blocks)](
        first, last_piece, pieces, part_end, row_of_piece, column, value, rows, sums, parts,
        n_rows, width, rows.stride(0), PIECE=_PIECE, AT_ONCE=_AT_ONCE, COLUMNS=_COLUMNS, num_warps=1,
    )  # fmt: skip
    _add_pieces[(n_rows, blocks)](pieces, part_end, parts, sums, width, COLUMNS=_COLUMNS, num_warps=1)
    return sums


def products(
    token: Int64[Tensor, " firing"],
    latent: Int64[Tensor, " firing"],
    targets: Float[Tensor, "token width"],
    directions: Float[Tensor, "latent width"],
    dtype: torch.dtype,
) -> Float[Tensor, " firing"]:
    """Return ⟨directions[latent], targets[token]⟩ for every firing."""
    found = directions.new_empty(len(token), dtype=dtype)
    if len(token) == 0:
        return found
    targets = targets if targets.stride(1) == 1 else targets.contiguous()
    directions = directions if directions.stride(1) == 1 else directions.contiguous()
    _dot[(triton.cdiv(len(token), _AT_ONCE),)](
        token, latent, targets, directions, found, len(token), targets.shape[1],
        targets.stride(0), directions.stride(0), AT_ONCE=_AT_ONCE, COLUMNS=_DOT_COLUMNS, num_warps=1,
    )  # fmt: skip
    return found


def above(
    block: Float[Tensor, "row column"], bounds: Float[Tensor, " row"]
) -> tuple[Int64[Tensor, " entry"], Float[Tensor, " entry"]]:
    """Return flat indices (row · columns + column, ascending) and values of all entries that exceed the bound of their row or are NaN."""
    n_rows, n_columns = block.shape
    parts = triton.cdiv(n_columns, _SCANNED)
    counts = torch.zeros(n_rows * parts, dtype=torch.int64, device=block.device)
    if block.numel():
        _count_above[(n_rows, parts)](block, bounds, counts, n_columns, parts, SIZE=_SCANNED)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    places, values = counts.new_empty(total), block.new_empty(total)
    if total:
        _write_above[(n_rows, parts)](
            block, bounds, counts, ends, places, values, n_columns, parts, SIZE=_SCANNED
        )
    return places, values


@triton.jit
@no_type_check
def _sum_pieces(
    first, last_piece, pieces, part_end, row_of_piece, column, value, rows, sums, parts, n_rows, width, stride,
    PIECE: tl.constexpr, AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0)
    row = tl.load(row_of_piece + piece)
    if row >= n_rows:
        return
    row_pieces = tl.load(pieces + row)
    nth = piece - (tl.load(last_piece + row) - row_pieces)
    begin = tl.load(first + row) + nth * PIECE
    end = tl.minimum(begin + PIECE, tl.load(first + row + 1))
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for start in range(begin, end, AT_ONCE):
        firing = start + tl.arange(0, AT_ONCE)
        in_range = firing < end
        weight = tl.load(value + firing, mask=in_range, other=0.0).to(tl.float32)
        source = tl.load(column + firing, mask=in_range, other=0)
        read = tl.load(
            rows + source[:, None] * stride + columns[None, :],
            mask=in_range[:, None] & inside[None, :],
            other=0.0,
        )
        total += tl.sum(weight[:, None] * read.to(tl.float32), axis=0)
    if row_pieces == 1:
        tl.store(sums + row * width + columns, total.to(sums.dtype.element_ty), mask=inside)
    else:
        place = tl.load(part_end + row) - row_pieces + nth
        tl.store(parts + place * width + columns, total, mask=inside)


@triton.jit
@no_type_check
def _add_pieces(pieces, part_end, parts, sums, width, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    row_pieces = tl.load(pieces + row)
    if row_pieces == 1:
        return
    begin = tl.load(part_end + row) - row_pieces
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for place in range(begin, begin + row_pieces):
        total += tl.load(parts + place * width + columns, mask=inside, other=0.0)
    tl.store(sums + row * width + columns, total.to(sums.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _dot(
    token, latent, targets, directions, found, n_firings, width, target_stride, direction_stride,
    AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    firing = tl.program_id(0) * AT_ONCE + tl.arange(0, AT_ONCE)
    in_range = firing < n_firings
    left = tl.load(token + firing, mask=in_range, other=0) * target_stride
    right = tl.load(latent + firing, mask=in_range, other=0) * direction_stride
    total = tl.zeros([AT_ONCE], dtype=tl.float32)
    for begin in range(0, width, COLUMNS):
        columns = begin + tl.arange(0, COLUMNS)
        mask = in_range[:, None] & (columns < width)[None, :]
        target = tl.load(targets + left[:, None] + columns[None, :], mask=mask, other=0.0)
        direction = tl.load(directions + right[:, None] + columns[None, :], mask=mask, other=0.0)
        total += tl.sum(target.to(tl.float32) * direction.to(tl.float32), axis=1)
    tl.store(found + firing, total.to(found.dtype.element_ty), mask=in_range)


@triton.jit
@no_type_check
def _count_above(block, bounds, counts, n_columns, parts, SIZE: tl.constexpr):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = part * SIZE + tl.arange(0, SIZE)
    value = tl.load(block + row * n_columns + column, mask=column < n_columns, other=float("-inf"))
    bound = tl.load(bounds + row)
    passing = (value > bound) | (value != value)
    tl.store(counts + row * parts + part, tl.sum(passing.to(tl.int32), axis=0).to(tl.int64))


@triton.jit
@no_type_check
def _write_above(block, bounds, counts, ends, places, values, n_columns, parts, SIZE: tl.constexpr):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    count = tl.load(counts + row * parts + part)
    if count == 0:
        return
    column = part * SIZE + tl.arange(0, SIZE)
    value = tl.load(block + row * n_columns + column, mask=column < n_columns, other=float("-inf"))
    bound = tl.load(bounds + row)
    passing = (value > bound) | (value != value)
    place = tl.load(ends + row * parts + part) - count + tl.cumsum(passing.to(tl.int32), axis=0) - 1
    tl.store(places + place, row * n_columns + column, mask=passing)
    tl.store(values + place, value, mask=passing)
