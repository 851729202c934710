"""The CUDA sources of attention find what the plain form finds, run on a CPU by `tests/parts/cuda`.

A GPU runs more cases (`test_rows_attention.py`); these are for everybody who has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import pytest

from runner.kernels import rows_attention_cuda
from runner.kernels.rotation import Turning
from runner.kernels.rows_attention import LANE, PLAIN, Heads, Joint, Lanes, Own, Query
from tests.parts.cuda import COMPILER, on_this_machine

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

normal = partial(mx.random.normal, dtype=mx.float32)
CLOSE = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def on_a_cpu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from on_this_machine((rows_attention_cuda._kernel,), tmp_path_factory, monkeypatch)


class Kind(NamedTuple):
    """shared: query heads of a key/value head."""

    shared: int
    width: int
    dtype: mx.Dtype = mx.bfloat16
    kv_heads: int = 2
    window: int | None = None
    sinks: bool = False

    @property
    def heads(self) -> int:
        return self.shared * self.kv_heads


class Storage(NamedTuple):
    """What attention looks at, and the same in float32."""

    rows: list[Own]
    lanes: Lanes
    exact_rows: list[Own]
    exact_lanes: Lanes


def storage(kind: Kind, lengths: list[int], places: list[int]) -> Storage:
    """What no query sees is no number."""
    exact_rows = []
    for length, place in zip(lengths, places, strict=True):
        shape = (1, kind.kv_heads, length + 3, kind.width)
        seen = mx.arange(length + 3)[:, None] < length
        keys, values = (mx.where(seen, _rounded(kind, shape), mx.nan) for _ in range(2))
        exact_rows.append(Own(keys, values, 0, length, place))
    seen = mx.zeros((LANE * (max(places) // LANE + 1), 1, 1), mx.bool_)
    for place in places:
        seen[place - place % LANE : place] = True
    in_lanes = (seen.shape[0], kind.kv_heads, kind.width)
    keys, values = (mx.where(seen, _rounded(kind, in_lanes), mx.nan) for _ in range(2))
    waiting = mx.zeros(seen.shape[0] * kind.heads, mx.int32)
    rows = [
        row._replace(keys=row.keys.astype(kind.dtype), values=row.values.astype(kind.dtype))
        for row in exact_rows
    ]
    lanes = Lanes(mx.array(keys.astype(kind.dtype)), mx.array(values.astype(kind.dtype)), waiting)
    mx.eval(rows, lanes, keys, values)
    return Storage(rows, lanes, exact_rows, Lanes(keys, values, waiting))


def _rounded(kind: Kind, shape: tuple[int, ...]) -> mx.array:
    """In float32, but as the kind has them."""
    return normal(shape).astype(kind.dtype).astype(mx.float32)


SOME = {
    "a head for each": (Kind(1, 64), [40]),
    "three heads that share, split": (Kind(3, 64, mx.float16, sinks=True), [700]),
    "sixteen, in two blocks": (Kind(16, 64, kv_heads=1, window=40, sinks=True), [300, 9]),
    "four": (Kind(4, 128, mx.float16, window=200), [130, 3, 600]),
    "seven, split": (Kind(7, 128, kv_heads=1, sinks=True), [5, 700]),
    "eight of the widest, split": (Kind(8, 256, kv_heads=1), [200]),
    "two of the widest": (Kind(2, 256, mx.float16), [17, 64]),
    "in more shares than a warp has lanes": (Kind(1, 256, kv_heads=1, sinks=True), [1100]),
    "narrow": (Kind(2, 16, mx.float32, window=40, sinks=True), [300, 9]),
    "narrow and split": (Kind(2, 32, mx.bfloat16), [700]),
}


@pytest.mark.parametrize("name", SOME)
def test_a_query_finds_what_the_plain_form_finds(name: str) -> None:
    """Whether what is new comes with it or was written before."""
    kind, lengths = SOME[name]
    mx.random.seed(len(name))
    made = storage(kind, lengths, [(len(lengths) - row) * LANE + 7 * row for row in range(len(lengths))])
    sizes = (kind.heads, kind.kv_heads, kind.kv_heads)
    exact = [_rounded(kind, (len(lengths), heads, 1, kind.width)) for heads in sizes]
    queries, keys, values = (array.astype(kind.dtype) for array in exact)
    sinks = normal((kind.heads,)) if kind.sinks else None
    query = Query(queries, 0, kind.width**-0.5, sinks, max(lengths) + 8, (keys, values))
    exact_query = query._replace(queries=exact[0], new=(exact[1], exact[2]))
    ours = rows_attention_cuda.cuda(made.rows, kind.window, len(lengths) + (len(lengths) > 1))
    plain = PLAIN.make(made.exact_rows, kind.window, len(lengths))
    expected = plain.attend(exact_query, made.exact_lanes)
    for asked in (query, query._replace(new=None)):
        found = ours.attend(asked, made.lanes)
        assert found.dtype == kind.dtype
        assert mx.allclose(found.astype(mx.float32), expected, rtol=0, atol=CLOSE[kind.dtype])
    assert mx.array_equal(made.lanes.keys.astype(mx.float32), made.exact_lanes.keys, equal_nan=True)
    assert mx.array_equal(made.lanes.values.astype(mx.float32), made.exact_lanes.values, equal_nan=True)
    assert not made.lanes.waiting.any()


@pytest.mark.parametrize(("width", "lengths"), [(64, [120]), (128, [30, 95])], ids=str)
def test_steps_with_one_attention_find_what_is_new_in_each_place_of_a_tile(
    width: int, lengths: list[int]
) -> None:
    """A warp takes 16 or 32 positions at once."""
    kind = Kind(2, width, mx.float16, kv_heads=1)
    mx.random.seed(width)
    rows = len(lengths)
    made = storage(kind, lengths, [LANE * row for row in range(rows)])
    ours = rows_attention_cuda.cuda(made.rows, None, rows)
    plain = PLAIN.make(made.exact_rows, None, rows)
    for step in range(34):
        exact = [_rounded(kind, (rows, heads, 1, width)) for heads in (2, 1, 1)]
        queries, keys, values = (array.astype(kind.dtype) for array in exact)
        query = Query(queries, step, width**-0.5, None, max(lengths) + step + 1, (keys, values))
        exact_query = query._replace(queries=exact[0], new=(exact[1], exact[2]))
        found = ours.attend(query, made.lanes).astype(mx.float32)
        expected = plain.attend(exact_query, made.exact_lanes)
        assert mx.allclose(found, expected, rtol=0, atol=CLOSE[kind.dtype])


JOINT = {
    "split": (Kind(2, 32, mx.float32), [700], False),
    "gated and split": (Kind(2, 32, mx.float32), [700], True),
    "two rows, gated": (Kind(2, 32, mx.float32), [5, 130], True),
    "two rows": (Kind(2, 32, mx.float16), [5, 130], False),
    "tensor cores, split": (Kind(3, 64), [700], False),
    "tensor cores, five heads": (Kind(5, 128, mx.float16), [70, 300], False),
    "tensor cores, the widest, gated": (Kind(4, 256, kv_heads=1), [100], True),
}


@pytest.mark.parametrize("name", JOINT)
def test_joined_heads_are_normed_turned_written_and_find_what_the_plain_form_finds(name: str) -> None:
    """In two steps."""
    kind, lengths, is_gated = JOINT[name]
    mx.random.seed(len(name))
    rows, width = len(lengths), kind.width
    made = storage(kind, lengths, [row * LANE + 7 for row in range(rows)])
    norms = [(1 + 0.1 * normal((width,))).astype(kind.dtype) for _ in range(2)]
    heads = Heads(
        kind.heads,
        kind.kv_heads,
        Turning(width, width // 2, 10_000.0),
        (norms[0], norms[1]),
        1e-6,
        is_gated,
    )
    exact_heads = heads._replace(norms=(norms[0].astype(mx.float32), norms[1].astype(mx.float32)))
    ours = rows_attention_cuda.cuda(made.rows, None, rows)
    plain = PLAIN.make(made.exact_rows, None, rows)
    close = 20 * CLOSE[kind.dtype] if kind.dtype == mx.float32 else 4 * CLOSE[kind.dtype]
    for step in (0, 1):
        joined = _rounded(kind, (rows, 1, heads.joined * width))
        joint = Joint(joined.astype(kind.dtype), heads, step, width**-0.5, max(lengths) + 8 + step)
        found = ours.attend_joint(joint, made.lanes)
        expected = plain.attend_joint(joint._replace(joined=joined, heads=exact_heads), made.exact_lanes)
        assert found.dtype == kind.dtype
        assert mx.allclose(found.astype(mx.float32), expected, rtol=0, atol=close)
    for found, expected in zip(made.lanes[:2], made.exact_lanes[:2], strict=True):
        assert mx.allclose(found.astype(mx.float32), expected, rtol=0, atol=close, equal_nan=True)
    assert not made.lanes.waiting.any()
