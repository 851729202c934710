#!/usr/bin/env python3
"""How long a start takes and how fast tokens come: beside mlx-lm, or beside another checkout. `--help` says how."""

import sys
from pathlib import Path

# The runner is this checkout's, also where nothing could be installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmark.command import main

if __name__ == "__main__":
    main()
