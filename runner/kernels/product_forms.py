"""The kinds of weights that `product_cuda.py` multiplies with: how a thread gets its part of a row, and how that
becomes numbers in the tensor cores. Texts for the source's frame, `product_source.py`.

    floats                     as they are
    affine, 2 to 8 bits        code * scale + bias, groups of 32, 64 or 128
    mxfp4, nvfp4               e2m1 (sign, two bits of exponent, one more), groups of 32 and 16
    mxfp8                      e4m3, groups of 32

Scales of the last three are bytes: powers of two (e8m0) or, of nvfp4, e4m3. Such a code times its scale is a
bfloat16 without rounding.

Shapes: see `product.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from runner.kernels.product_source import EARLY, GROUPED, LATE


class Form(NamedTuple):
    """A kind of weight."""

    way: Mapping[str, str]  # EARLY, LATE or GROUPED
    step: int  # inputs that four threads take at once
    fields: str  # what a thread keeps of a row
    fetch: str  # how it gets them
    order: str  # how eight numbers of a position are put in the order of the weight's
    numbers: str = ""  # how eight inputs of a row become four pairs of numbers
    codes: str = ""  # how they become pairs of codes, where sums are scaled
    warps: int = 8  # of a block: they share the inputs
    ahead: Mapping[int, int] = {
        1: 1,
        2: 1,
        4: 1,
    }  # steps whose weights a thread asks for at once, by eights of positions

    def texts(self) -> dict[str, str]:
        """With gaps for the sizes."""
        return {"fields": self.fields, "fetch": self.fetch, "numbers": self.numbers, "codes": self.codes}


AS_THEY_ARE = "o[0] = v.x; o[1] = v.y; o[2] = v.z; o[3] = v.w;"
FLOATS = Form(
    EARLY,
    step=32,
    fields="uint4 v;",
    fetch="one.v = read_weight(weight + row * W + k);",
    numbers="o[0] = one.v.x; o[1] = one.v.y; o[2] = one.v.z; o[3] = one.v.w;",
    order=AS_THEY_ARE,
    ahead={1: 4, 2: 4, 4: 2},
)

SCALES = """const size_t group = row * (W / %(group)d) + k / %(group)d;
        one.scale = read_twice(scales + group);
        one.bias = read_twice(biases + group);"""
# A group's scales and biases for the two halves of a step, side by side where they lie so.
TWO_SCALES = """const int last = (W - 1) / %(group)d;
        const size_t groups = row * (size_t)(W / %(group)d);
        const int one_group = min(step * STEP / %(group)d, last), other = min((step * STEP + 64) / %(group)d, last);
        if constexpr (%(group)d == 64 && W %% 128 == 0) {
          one.scale = read_word(scales + groups + one_group);
          one.bias = read_word(biases + groups + one_group);
        } else {
          const auto both = [&](const Number* of) {
            return __byte_perm(read_twice(of + groups + one_group), read_twice(of + groups + other), 0x5410);
          };
          one.scale = both(scales);
          one.bias = both(biases);
        }"""
# The first of eight numbers and the fifth are one pair, the second and the sixth the next.
HALVES = """o[0] = __byte_perm(v.x, v.z, 0x5410); o[1] = __byte_perm(v.x, v.z, 0x7632);
        o[2] = __byte_perm(v.y, v.w, 0x5410); o[3] = __byte_perm(v.y, v.w, 0x7632);"""
EIGHT_NIBBLES = "const word codes = p == 0 ? one.v.x : p == 1 ? one.v.y : p == 2 ? one.v.z : one.v.w;"
NIBBLES = Form(
    EARLY,
    step=128,
    fields="uint4 v; word scale, bias;",
    fetch="one.v = read_weight(weight + row * (W / 8) + k / 8);\n        " + SCALES,
    numbers=EIGHT_NIBBLES
    + """
          #pragma unroll
          for (int i = 0; i < 4; i++)
            o[i] = affine(((codes >> (4 * i)) & 0x000f000fu) | ABOVE, one.scale, one.bias);""",
    order=HALVES,
    ahead={1: 2, 2: 1, 4: 1},
)
# The same where groups are at least 64 inputs.
LONG_NIBBLES = Form(
    GROUPED,
    step=128,
    fields="uint2 v[2]; word scale, bias;",
    fetch="""const int step = min(begin + u, STEPS - 1);
        #pragma unroll
        for (int q = 0; q < 2; q++)
          one.v[q] = read_half(weight + row * (W / 8) + min(step * STEP + q * 64 + t * 16, W - 16) / 8);
        """
    + TWO_SCALES,
    codes="""const word codes = p == 0 ? one.v[q].x : one.v[q].y;
            #pragma unroll
            for (int i = 0; i < 4; i++) o[i] = ((codes >> (4 * i)) & 0x000f000fu) | AS_IT_IS;""",
    order=HALVES,
    warps=4,
)
# A byte in the place of the last bits of the float 2^23 is 2^23 + byte.
BYTES = Form(
    EARLY,
    step=64,
    fields="uint4 v; word scale, bias;",
    fetch="one.v = read_weight(weight + row * (W / 4) + k / 4);\n        " + SCALES,
    numbers="""#pragma unroll
          for (int i = 0; i < 4; i++) {
            const word codes = p == 0 ? (i < 2 ? one.v.x : one.v.y) : (i < 2 ? one.v.z : one.v.w);
            const word low = 0x7650u + i %% 2 * 2;
            const float a = __uint_as_float(__byte_perm(codes, 0x4b000000u, low)) - 8388608.f;
            const float b = __uint_as_float(__byte_perm(codes, 0x4b000000u, low + 1)) - 8388608.f;
            o[i] = bits(__hfma2(pair(rounded(a, b)), pair(one.scale), pair(one.bias)));
          }""",
    order=AS_THEY_ARE,
    ahead={1: 2, 2: 2, 4: 1},
)


def without_gaps(bits: int) -> Form:
    """Codes of two, three, five or six bits. A thread takes 64, which fill whole words whatever their bits, and an
    even number of them. They belong to one group, or to two of 32.
    """
    return Form(
        LATE,
        step=256,
        fields=f"word v[{2 * bits}]; word scale[2], bias[2];",
        fetch=f"""#pragma unroll
        for (int i = 0; i < {bits}; i++) {{
          const uint2 two = read_part(weight + (row * W + k) / 32 * {bits} + 2 * i);
          one.v[2 * i] = two.x;
          one.v[2 * i + 1] = two.y;
        }}
        const size_t group = (row * W + k) / %(group)d;
        #pragma unroll
        for (int i = 0; i < 2; i++) {{
          one.scale[i] = %(group)d > 32 && i ? one.scale[0] : read_twice(scales + group + i);
          one.bias[i] = %(group)d > 32 && i ? one.bias[0] : read_twice(biases + group + i);
        }}""",
        numbers=f"""#pragma unroll
          for (int i = 0; i < 4; i++)
            o[i] = affine(neighbours<{bits}>(one.v, p * 8 + 2 * i), one.scale[p / 4], one.bias[p / 4]);""",
        order=AS_THEY_ARE,
        warps=4,
    )


FLOAT_NIBBLES = (
    EIGHT_NIBBLES
    + """
          #pragma unroll
          for (int i = 0; i < 4; i++) o[i] = times(e2m1(codes, i), {scale});"""
)
MXFP4 = Form(
    LATE,
    step=128,
    fields="uint4 v; word scale;",
    fetch="""one.v = read_weight(weight + row * (W / 8) + k / 8);
        one.scale = read_byte(scales + row * (W / 32) + k / 32);""",
    numbers=FLOAT_NIBBLES.format(scale="e8m0(one.scale)"),
    order=HALVES,
    warps=4,
)
NVFP4 = MXFP4._replace(
    fetch="""one.v = read_weight(weight + row * (W / 8) + k / 8);
        one.scale = read_twice(scales + row * (W / 16) + k / 16);""",
    numbers=FLOAT_NIBBLES.format(scale="e4m3(__byte_perm(one.scale, 0, p < 2 ? 0x4040 : 0x4141))"),
)
# The first byte of a word and the third are one pair.
MXFP8 = Form(
    LATE,
    step=64,
    fields="uint4 v; word scale;",
    fetch="""one.v = read_weight(weight + row * (W / 4) + k / 4);
        one.scale = read_byte(scales + row * (W / 32) + k / 32);""",
    numbers="""#pragma unroll
          for (int i = 0; i < 4; i++) {
            const word codes = p == 0 ? (i < 2 ? one.v.x : one.v.y) : (i < 2 ? one.v.z : one.v.w);
            o[i] = times(e4m3(codes >> (8 * (i %% 2))), e8m0(one.scale));
          }""",
    order="""o[0] = __byte_perm(v.x, v.y, 0x5410); o[1] = __byte_perm(v.x, v.y, 0x7632);
        o[2] = __byte_perm(v.z, v.w, 0x5410); o[3] = __byte_perm(v.z, v.w, 0x7632);""",
    warps=4,
)

FORMS = {0: FLOATS, 4: NIBBLES, 8: BYTES} | {bits: without_gaps(bits) for bits in (2, 3, 5, 6)}
"""By the bits of an affine weight; 0 for floats."""
LONG = {4: LONG_NIBBLES}
"""Those for groups of at least 64."""
FLOAT_FORMS = {"mxfp4": MXFP4, "mxfp8": MXFP8, "nvfp4": NVFP4}
"""By the mode of a weight whose scales are bytes."""
