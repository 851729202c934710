"""Which stored tensors belong together: what each of them is, told by its name and type alone.

The parts of a quantized matrix [.., N, W] are, as MLX has them, in which every other layout is expressed:

    weight        uint32 [.., N, W*bits/32]   codes, the first in the lowest bits, in one stream along the row
    scales        [.., N, W/group_size]       floats for affine; a byte, E8M0 or E4M3, for the others
    biases        as scales                   affine only: value = scale * code + bias
    global_scale  scalar, [1] or one each     nvfp4 only, at will: a plain factor of the whole matrix

The other layouts of `names.py` have the same bytes under other types and shapes:

    blocks                 mxfp4: codes uint8 [.., N, W/32, 16], scales uint8 [.., N, W/32]
    modelopt, compressed   nvfp4: codes U8 [.., N, W/2], scales F8_E4M3; compressed has one over the factor

In both the first code of a byte is in its lower half, as in MLX's words on a little-endian machine.

`classify` serves headers at import and `show`, and arrays at load. Knows nothing about arrays: it reads no tensor.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

from runner.errors import BadModelFiles
from runner.quantization.names import (
    ENDINGS,
    IGNORED,
    ROLES,
    SCALES,
    Layout,
    Role,
    in_mlx_spelling,
)
from runner.store.safetensors_header import Tensor

NVFP4_LAYOUTS: tuple[Layout, ...] = ("modelopt", "compressed")


@dataclass(frozen=True, slots=True)
class Part:
    """What a stored tensor is: a part of the matrix at `path`, or, without a role, the tensor `path` by itself."""

    path: str
    role: Role | None = None
    layout: Layout = "mlx"

    @property
    def name(self) -> str:
        """In MLX's spelling."""
        return f"{self.path}.{self.role}" if self.role else self.path

    @property
    def inverted(self) -> bool:
        """Whether one over each of its numbers is meant."""
        return self.layout == "compressed" and self.role == "global_scale"

    def sibling(self, role: Role) -> str:
        """What the part of that role is called in the same layout."""
        return self.path + ENDINGS[self.layout][role]


def classify(dtypes: Mapping[str, str]) -> dict[str, Part]:
    """Stored name -> what it is. dtypes: stored name -> type, as headers have it. Left out is what only quantized
    activations need. Nothing is refused here: parts may lack others.
    """
    nvfp4 = dict(_nvfp4(dtypes))
    others = [name for name in dtypes if name not in nvfp4 and not name.endswith(IGNORED)]
    spelled = {in_mlx_spelling(name) for name in others}
    return {name: _block(name, dtypes) or part_of(in_mlx_spelling(name), spelled) for name in others} | nvfp4


def part_of(name: str, names: Container[str]) -> Part:
    """What a tensor in MLX's layout is; it and all names in MLX's spelling."""
    path = name.rpartition(".")[0]
    role = next((role for role in ROLES if name == f"{path}.{role}"), None)
    if role is None or (role == "weight" and f"{path}{SCALES}" not in names):
        return Part(name)
    return Part(path, role)


def _block(name: str, dtypes: Mapping[str, str]) -> Part | None:
    codes, scales = (ENDINGS["blocks"][role] for role in ("weight", "scales"))
    if name.endswith(codes):
        return Part(name.removesuffix(codes), "weight", "blocks")
    path = name.removesuffix(scales)
    if name.endswith(scales) and (dtypes[name] == "U8" or f"{path}{codes}" in dtypes):
        return Part(path, "scales", "blocks")
    return None


def _nvfp4(dtypes: Mapping[str, str]) -> Iterator[tuple[str, Part]]:
    """Told by the type of the scales, which nobody else has."""
    for name, dtype in dtypes.items():
        for layout in NVFP4_LAYOUTS if dtype == "F8_E4M3" else ():
            endings = ENDINGS[layout]
            path = name.removesuffix(endings["scales"])
            if path != name and dtypes.get(path + endings["weight"]) == "U8":
                for role, ending in endings.items():
                    if path + ending in dtypes:
                        yield path + ending, Part(path, role, layout)


def is_quantized(parts: Mapping[str, Part]) -> bool:
    return any(part.role == "scales" or part.layout == "blocks" for part in parts.values())


def stored_names(parts: Mapping[str, Part]) -> dict[str, str]:
    """Name in MLX's spelling -> stored name."""
    stored: dict[str, str] = {}
    for name, part in parts.items():
        if part.name in stored:
            raise BadModelFiles(f"tensor {part.name} is there twice, in two spellings")
        stored[part.name] = name
    return stored


def require_whole(part: Part, names: Container[str]) -> None:
    """Refuse a part of a matrix whose codes or scales are not there; names as its layout has them."""
    if part.role is None:
        return
    for role in ("weight", "scales"):
        if part.sibling(role) not in names:
            raise BadModelFiles(f"{part.sibling(part.role)} without {part.sibling(role)}")


def in_mlx_types(tensor: Tensor, part: Part) -> Tensor:
    """The same bytes with the type and the shape that MLX has for them; `blocks` are left as they are."""
    if part.layout not in NVFP4_LAYOUTS:
        return tensor
    if part.role == "weight":
        *rows, width = tensor.shape or (0,)
        if not rows or width % 4:
            raise BadModelFiles(f"tensor {tensor.name}: {tensor.shape} is no matrix of packed codes")
        return replace(tensor, dtype="U32", shape=(*rows, width // 4))
    if part.role == "scales":
        return replace(tensor, dtype="U8")
    if tensor.dtype != "F32":
        raise BadModelFiles(f"tensor {tensor.name} is {tensor.dtype}, expected F32")
    return tensor
