#!/usr/bin/env python3
"""How long a start takes and how fast tokens come: beside mlx-lm, or beside another checkout. `--help` says how."""

from benchmark.command import main

if __name__ == "__main__":
    main()
