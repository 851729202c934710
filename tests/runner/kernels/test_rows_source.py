"""The CUDA sources are whole for every shape; what they compute is tested where there is a CUDA device."""

from __future__ import annotations

import mlx.core as mx

from runner.kernels import delta_chunks_cuda, delta_cuda, experts_cuda, product_cuda, rows_attention_program
from runner.kernels.delta import LinearConfig, Rule
from runner.kernels.experts_cuda import Down, GateUp, Rows
from runner.kernels.product_cuda import Shape as ProductShape
from runner.kernels.program import Program
from runner.kernels.rows_attention_program import Shape
from runner.quantization.settings import FLOAT_MODES

SHAPES = [
    Shape(32, 8, 128, mx.bfloat16, 32, None, 128**-0.5),
    Shape(9, 3, 64, mx.float32, 2, 1024, 0.125, given=mx.bfloat16),
    Shape(9, 3, 64, mx.float32, 2, None, 0.125, form="look"),
    Shape(32, 8, 64, mx.bfloat16, 1, None, 0.125, mx.bfloat16, "joint", dims=64, eps=1e-6),
    Shape(32, 8, 64, mx.bfloat16, 1, None, 0.125, form="joint", dims=32),
    Shape(32, 8, 32, mx.bfloat16, 1, None, 0.125, form="joint", dims=32),
    Shape(16, 4, 256, mx.bfloat16, 1, None, 0.0625, mx.float32, "joint", dims=64, eps=1e-6, is_gated=True),
]
WEIGHTS = [
    (0, 0, "affine"),
    *((bits, group_size, "affine") for bits in (2, 3, 4, 5, 6, 8) for group_size in (32, 64)),
    *((kind.bits, kind.group_size, kind.mode) for kind in FLOAT_MODES.values()),
]
AROUND = [(None, False, False, 0, False), (1e-5, True, True, 1000, False), (1e-6, False, True, 7, True)]
PRODUCTS = [
    ProductShape(2048, 4096, bits, group_size, eps, gated, bias, lines, mode=mode, scaled=scaled)
    for bits, group_size, mode in WEIGHTS
    for eps, gated, bias, lines, scaled in AROUND
]


def test_an_attention_source_has_no_gap_and_names_every_input() -> None:
    for shape in SHAPES:
        program = rows_attention_program.program(shape)
        check(program)
        names = [array.name for array in program.inputs]
        assert sum(name.startswith("k") and name[1:].isdigit() for name in names) == shape.most


def test_a_product_source_has_no_gap_and_names_every_input() -> None:
    for shape in PRODUCTS:
        for columns in (1, 2, 4):
            for adds in (False, True):
                for number in (mx.bfloat16, mx.float16):
                    check(product_cuda.program(shape._replace(adds=adds, number=number), columns))


def test_a_source_of_linear_attention_has_no_gap_and_names_every_input() -> None:
    for is_grouped in (False, True):
        check(delta_cuda.program(delta_cuda.Shape(LinearConfig(16, 32, 128, 128, 4), is_grouped, 1e-6)))


def test_sources_for_chunks_have_no_gap_and_name_every_input() -> None:
    for made in (delta_chunks_cuda.prepare_program, delta_chunks_cuda.through_program):
        check(made(delta_chunks_cuda.Shape(128, 128)))
    assert delta_chunks_cuda.Shape(128, 128).fits
    for widths in ((132, 128), (30, 128), (128, 24)):
        assert not delta_chunks_cuda.Shape(*widths).fits


def test_linear_attention_that_the_kernel_is_not_written_for_is_left_to_others() -> None:
    half = mx.zeros(1, mx.bfloat16)
    rule = Rule(LinearConfig(16, 32, 128, 128, 4), False, half, half, half, half, 1e-6)
    assert delta_cuda.fits(rule)
    assert not delta_cuda.fits(rule._replace(convolution=mx.zeros(1)))
    for config in (
        LinearConfig(1, 1, 128, 6, 4),
        LinearConfig(1, 1, 512, 128, 4),
        LinearConfig(1, 1, 16, 16, 9),
        LinearConfig(1, 1, 16, 516, 4),
    ):
        assert not delta_cuda.fits(rule._replace(config=config))


def test_the_sources_of_experts_have_no_gap_and_name_every_input() -> None:
    for bits, group_size in ((0, 0), (4, 64), (4, 32), (8, 128)):
        rows = Rows(768, 2048, bits, group_size)
        for has_shared in (False, True):
            check(
                experts_cuda.gate_up_program(
                    GateUp(rows, 128, 8, has_shared, True, 1e-6, mx.float32, 768 * 2048)
                )
            )
            for lines in (0, 1000):
                check(experts_cuda.down_program(Down(rows, 128, 8, has_shared, lines)))


def check(program: Program) -> None:
    whole = program.text("function")
    assert "%(" not in whole
    assert "%%" not in whole
    for name in [*program.numbers, *(array.name for array in (*program.inputs, *program.outputs))]:
        assert name in program.body
