"""A model in parts: what of it each of several processes has, and what they add up.

Projections are divided by their outputs, those behind them by their inputs, so that what a half of a block makes in
each process is a part of a sum. Layers say in `layers/shards.py` which of their weights these are.
"""
