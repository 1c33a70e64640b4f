"""The Triton kernels of `project_linear`: `sketch_tiles` forms, maps and scatters; `add_slabs` sums what it leaves.

How the work is cut, and what was tried and dropped: docs/triton.md.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

SGD = tl.constexpr(0)
ADAM = tl.constexpr(1)
LESS = tl.constexpr(2)
AFFINE = tl.constexpr(3)
SECOND_MOMENT = tl.constexpr(4)
SIGN = tl.constexpr(5)

MASK_KEY = tl.constexpr(0x58535742)
GOLDEN = tl.constexpr(0x9E3779B9)
# Float32 sums of squares are as good as float64 ones where no square was lost to underflow, and none overflowed.
SMALLEST_SAFE_SUM = tl.constexpr(1e-24)
LARGEST_SAFE_SUM = tl.constexpr(1e38)


@triton.jit
def _philox(c2, c3, id_lo, id_hi, key_lo, key_hi):
    """Philox4x32-10 of the counters (id_lo, id_hi, c2, c3), c2 uint32 of any shape."""
    zero = c2 * 0
    return tl.philox_impl(zero + id_lo, zero + id_hi, c2, zero + c3, zero + key_lo, zero + key_hi)


@triton.jit
def _gamma(g, m, v, first_m, first_g, second_v, second_g, inner_eps, eps, GAMMA: tl.constexpr):
    """Γ with its constants folded as csrc/common/gamma.h does: GammaTerms has the formula."""
    if GAMMA == SGD:
        return g
    if GAMMA == SIGN:
        return tl.where(g > 0, 1.0, tl.where(g < 0, -1.0, g))
    if GAMMA == SECOND_MOMENT:
        return g / (tl.sqrt(second_v * v) + eps)
    if GAMMA == AFFINE:
        return (first_m * m + first_g * g) / (tl.sqrt(second_v * v) + eps)
    if GAMMA == ADAM:
        return (first_m * m + first_g * g) / (tl.sqrt(second_v * v + second_g * g * g) + eps)
    return (first_m * m + first_g * g) / tl.sqrt(second_v * v + second_g * g * g + inner_eps)


@triton.jit
def _sum_squares(x):
    """Σ x² as float64; squares that float32 does not hold are taken in float64."""
    total = tl.sum(x * x)
    result = total.to(tl.float64)
    if (total < SMALLEST_SAFE_SUM) | (total > LARGEST_SAFE_SUM):
        wide = x.to(tl.float64)
        result = tl.sum(wide * wide)
    return result


@triton.jit
def _sign_bits(i, J, id_lo, id_hi, key_lo, key_hi, column, WIDTH: tl.constexpr):
    """Bit 31 of entry (i, 128·J + column) is set where its sign is −1; WIDTH columns, from 0."""
    w0, w1, w2, w3 = _philox(i, J, id_lo, id_hi, key_lo, key_hi)
    if WIDTH == 128:
        # A word for each quarter of the columns, not four a row in every thread that holds some of the row.
        words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (i.shape[0], 4, 1))
        word = tl.reshape(tl.broadcast_to(words, (i.shape[0], 4, 32)), (i.shape[0], WIDTH))
    else:
        word = w0[:, None]
    return (word << (31 - (column & 31))[None, :].to(tl.uint32)) & 0x80000000


@triton.jit
def _scatter(x, slab, row0, r, column, J, fresh, id_lo, id_hi, seed_lo, seed_hi,
             PROJ_DIM: tl.constexpr, NONZEROS: tl.constexpr, FIRST: tl.constexpr):  # fmt: skip
    """Adds the values x (rows row0 + r of the weight, columns 128·J + column) to the slab, signed."""
    CHUNK: tl.constexpr = min(PROJ_DIM, 8192)
    CR: tl.constexpr = CHUNK // 128
    LOG_CR: tl.constexpr = 1 if CR == 2 else 2 if CR == 4 else 3 if CR == 8 else 4 if CR == 16 else 5 if CR == 32 else 6
    bits = x.to(tl.uint32, bitcast=True)
    i = (row0 + r).to(tl.uint32)
    turn = seed_hi * 0
    # A loop that stays one: unrolled, what several repeats need is held at once, and spills. Its loads follow stores.
    for repeat in tl.range(NONZEROS, num_stages=1, loop_unroll_factor=1, disable_licm=True):
        key_hi = seed_hi ^ turn
        turn += GOLDEN
        sign = _sign_bits(i, J, id_lo, id_hi, seed_lo, key_hi, column, x.shape[1])
        signed = (bits ^ sign).to(tl.float32, bitcast=True)
        # Rows of different chunks may meet at one index, those of one chunk never: each chunk of a tile has a slab.
        if x.shape[0] <= CR:
            within = row0 % CR + r
            group = r * 0
            chunk = (row0 // CR).to(tl.uint32)
            mask, _1, _2, _3 = _philox(chunk, J, id_lo, id_hi, seed_lo, key_hi ^ MASK_KEY)
            mask += r.to(tl.uint32) * 0
        else:
            within = r % CR
            group = (r // CR) * PROJ_DIM
            chunk = (row0 // CR + tl.arange(0, x.shape[0] // CR)).to(tl.uint32)
            mask, _1, _2, _3 = _philox(chunk, J, id_lo, id_hi, seed_lo, key_hi ^ MASK_KEY)
            # A call a chunk, not one for each row in every thread that holds some of it.
            halves = tl.reshape(tl.join(mask, mask), (x.shape[0] // CR, 2, 1))
            mask = tl.reshape(tl.broadcast_to(halves, (x.shape[0] // CR, 2, CR // 2)), (x.shape[0],))
        mask = mask.to(tl.int32, bitcast=True)
        row = within ^ ((mask >> 7) & (CR - 1))
        if PROJ_DIM > 8192:
            row += ((mask >> (7 + LOG_CR)) & (PROJ_DIM // 8192 - 1)) * CR
        to = slab + ((group + row * 128)[:, None] + (column[None, :] ^ (mask & 127)[:, None]))
        if FIRST:
            before = tl.load(to, mask=(column >= 0)[None, :] & ((fresh == 0) | (repeat > 0)), other=0.0)
        else:
            before = tl.load(to)
        tl.store(to, before + signed)
        # The next tile and the next repeat reach the same indices from other threads.
        tl.debug_barrier()


@triton.jit
def _finish(acc, slab, m_ptr, v_ptr, row0, J, column, d_out, d_in, fresh, id_lo, id_hi, seed_lo, seed_hi,
            first_m, first_g, second_v, second_g, inner_eps, eps, PROJ_DIM: tl.constexpr, NONZEROS: tl.constexpr,
            GAMMA: tl.constexpr, NORMS: tl.constexpr, FIRST: tl.constexpr):  # fmt: skip
    """Γ, the norms and the scatter of a finished tile; returns its (‖g‖², ‖Γ‖²)."""
    r = tl.arange(0, acc.shape[0])
    # In this order, so that what one step holds in registers is gone before the next one loads.
    g2 = tl.full((), 0.0, tl.float64)
    if NORMS:
        g2 = _sum_squares(acc)
    m = acc
    v = acc
    if (GAMMA != SGD) & (GAMMA != SIGN):
        inside = (row0 + r < d_out)[:, None] & (J * 128 + column < d_in)[None, :]
        corner = row0.to(tl.int64) * d_in + J * 128
        offset = r[:, None] * d_in + column[None, :]
        v = tl.load(v_ptr + corner + offset, mask=inside, other=0.0).to(tl.float32)
        if GAMMA != SECOND_MOMENT:
            m = tl.load(m_ptr + corner + offset, mask=inside, other=0.0).to(tl.float32)
    x = _gamma(acc, m, v, first_m, first_g, second_v, second_g, inner_eps, eps, GAMMA)
    x2 = g2
    if NORMS and GAMMA != SGD:
        x2 = _sum_squares(x)
    _scatter(x, slab, row0, r, column, J, fresh, id_lo, id_hi, seed_lo, seed_hi, PROJ_DIM, NONZEROS, FIRST)
    return g2, x2


# Sizes and strides of the operands come in vectors of VEC_A or VEC_G elements: multiplied again, the compiler knows
# what divides them and loads whole vectors, and one compilation serves every layer of a model.
UNSPECIALISED = (
    "length", "out_vectors", "in_vectors", "a_sample", "a_token", "g_sample", "g_token",
    "id_lo", "id_hi", "seed_lo", "seed_hi", "n_tiles", "tiles_per_slice",
)  # fmt: skip


@triton.jit(do_not_specialize=UNSPECIALISED)
def sketch_tiles(
    a_ptr, g_ptr, m_ptr, v_ptr, cu_ptr, slab_ptr, norm_ptr,
    length, out_vectors, in_vectors, a_sample, a_token, g_sample, g_token,
    id_lo, id_hi, seed_lo, seed_hi, first_m, first_g, second_v, second_g, inner_eps, eps,
    n_tiles, tiles_per_slice,
    PROJ_DIM: tl.constexpr, NONZEROS: tl.constexpr, GAMMA: tl.constexpr, NORMS: tl.constexpr, PACKED: tl.constexpr,
    VEC_A: tl.constexpr, VEC_G: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
):  # fmt: skip
    """Program (b, s) adds slice s of the tiles of sample b's weight gradient to slab (b, s), which no other touches.

    slab (B, S, GROUPS, PROJ_DIM) float32, norms (B, S, 2) float64, both overwritten; GROUPS is the number of chunks
    that a tile's rows span. Samples are the fast axis of the grid, so that programs which run together read the
    same moments.
    """
    GROUPS: tl.constexpr = max(1, BLOCK_OUT * 128 // min(PROJ_DIM, 8192))
    SLAB: tl.constexpr = GROUPS * PROJ_DIM
    # The first tile reaches every index of the slab where it has whole chunks and the sketch is one chunk long.
    COVERS: tl.constexpr = (BLOCK_IN == 128) & (PROJ_DIM <= 8192) & (min(PROJ_DIM, 8192) <= BLOCK_OUT * 128)
    b = tl.program_id(0).to(tl.int64)
    s = tl.program_id(1)
    slab = slab_ptr + (b * tl.num_programs(1) + s) * SLAB
    id_lo = id_lo.to(tl.uint32, bitcast=True)
    id_hi = id_hi.to(tl.uint32, bitcast=True)
    seed_lo = seed_lo.to(tl.uint32, bitcast=True)
    seed_hi = seed_hi.to(tl.uint32, bitcast=True)
    d_out = out_vectors * VEC_G
    d_in = in_vectors * VEC_A
    a_token *= VEC_A
    g_token *= VEC_G
    if PACKED:
        begin = tl.load(cu_ptr + b)
        tokens = (tl.load(cu_ptr + b + 1) - begin).to(tl.int32)
        a_ptr += begin * a_token
        g_ptr += begin * g_token
    else:
        tokens = length
        a_ptr += b * a_sample * VEC_A
        g_ptr += b * g_sample * VEC_G
    if not COVERS:
        for start in range(0, SLAB, 1024):
            tl.store(slab + start + tl.arange(0, 1024), tl.zeros((1024,), tl.float32))
        tl.debug_barrier()
    g2 = tl.full((), 0.0, tl.float64)
    x2 = tl.full((), 0.0, tl.float64)
    rows = tl.arange(0, BLOCK_OUT)
    columns = tl.arange(0, BLOCK_IN)
    time = tl.arange(0, BLOCK_TOKENS)
    down = tl.cdiv(d_out, BLOCK_OUT)
    first = s * tiles_per_slice
    for tile in tl.range(first, min(first + tiles_per_slice, n_tiles), disable_licm=True):
        row0 = (tile % down) * BLOCK_OUT
        J = tile // down
        i = row0 + rows
        j = J * BLOCK_IN + columns
        acc = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
        for t0 in range(0, tokens, BLOCK_TOKENS):
            here = (t0 + time < tokens)[:, None]
            # 64 bits up to the tile, 32 within it.
            a = tl.load(
                a_ptr + tl.cast(t0, tl.int64) * a_token + (time[:, None] * a_token + j[None, :]),
                mask=here & (j < d_in)[None, :], other=0.0,
            )  # fmt: skip
            g = tl.load(
                g_ptr + tl.cast(t0, tl.int64) * g_token + (time[:, None] * g_token + i[None, :]),
                mask=here & (i < d_out)[None, :], other=0.0,
            )  # fmt: skip
            acc = tl.dot(tl.trans(g), a, acc, input_precision=PRECISION)
        fresh = tile == first
        g2_tile, x2_tile = _finish(
            acc, slab, m_ptr, v_ptr, row0, J, columns, d_out, d_in, fresh, id_lo, id_hi, seed_lo, seed_hi,
            first_m, first_g, second_v, second_g, inner_eps, eps, PROJ_DIM, NONZEROS, GAMMA, NORMS, COVERS,
        )  # fmt: skip
        g2 += g2_tile
        x2 += x2_tile
    if NORMS:
        to = norm_ptr + (b * tl.num_programs(1) + s) * 2
        tl.store(to, g2)
        tl.store(to + 1, x2)


@triton.jit(do_not_specialize=("slabs", "slices", "out_row", "norms_row"))
def add_slabs(
    slab_ptr, norm_slices_ptr, out_ptr, norms_ptr, slabs, slices, out_row, norms_row, scale,
    PROJ_DIM: tl.constexpr, ACCUMULATE: tl.constexpr, NORMS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out[b] (+)= scale · Σ_k slab[b, k], norms[b] (+)= Σ_s norm_slices[b, s], in an order that the sizes alone fix."""
    b = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    deep = tl.arange(0, DEPTH)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, slabs, DEPTH):
        k = start + deep
        part = tl.load(
            slab_ptr + (b * slabs + k)[:, None] * PROJ_DIM + p[None, :], mask=(k < slabs)[:, None], other=0.0
        )
        total += tl.sum(part, axis=0)
    total *= scale
    out = out_ptr + b * tl.cast(out_row, tl.int64) + p
    if ACCUMULATE:
        total += tl.load(out)
    tl.store(out, total)
    if NORMS and tl.program_id(1) == 0:
        two = tl.arange(0, 2)
        norm = tl.zeros((2,), tl.float64)
        for s in range(slices):
            norm += tl.load(norm_slices_ptr + (b * slices + s) * 2 + two)
        to = norms_ptr + b * tl.cast(norms_row, tl.int64) + two
        if ACCUMULATE:
            norm += tl.load(to)
        tl.store(to, norm)
