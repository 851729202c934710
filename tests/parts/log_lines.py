"""Our output as a host reads it: what a line must look like, and what must not stand in it."""

from __future__ import annotations

import re

# What a host's status writer looks for in our output: these exactly, and those in any spelling.
ALARMS = ["mlx:", "MLX:", "panic:", "fatal error:", "error:", "Error:", "CUDA error", "ROCm error"]
ALARMS += ["cudaMalloc failed", '"ERR"', "error loading model", "GGML_ASSERT"]
MEMORY_ALARMS = ["out of memory", "out of device memory", "cudamalloc failed", "hipmalloc failed"]
MEMORY_ALARMS += ["failed to allocate", "allocation failed", "not enough memory", "insufficient memory"]
MEMORY_ALARMS += ["failed to reserve graph", "vk_error_out_of_device_memory", "erroroutofmemory"]
SLOG = re.compile(
    r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d) level=(TRACE|DEBUG|INFO|WARN|ERROR)"
    r' source=\w+\.py:\d+( \w+=([^\s"=]+|"([^"\\]|\\.)*"))+'
)


def check_output(text: str) -> None:
    """Every line is well-formed and alarms no host."""
    assert text.endswith("\n")
    for line in text.splitlines():
        assert SLOG.fullmatch(line), line
        assert len(line.encode()) < 65_535
        assert not [alarm for alarm in ALARMS if alarm in line], line
        assert not [alarm for alarm in MEMORY_ALARMS if alarm in line.lower()], line


def is_complaint(output: str) -> str:
    """The reason after `Error: `, if the output is as a host wants it from a runner that cannot start."""
    lines = output.splitlines()
    assert output.endswith("\n")
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], output
    assert "Traceback" not in output
    assert len(lines[-1].encode()) < 8192
    for line in lines[:-1]:
        assert SLOG.fullmatch(line), line
    return lines[-1].removeprefix("Error: ")
