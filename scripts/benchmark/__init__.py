"""What scripts/bench.py is made of: three things to measure, two orders to measure them in, and the reports."""
