"""What scripts/bench.py is made of: what is measured, the orders to measure it in, and the reports."""
