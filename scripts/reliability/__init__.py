"""What scripts/fuzz.py and scripts/soak.py do to a runner, and how they watch it."""
