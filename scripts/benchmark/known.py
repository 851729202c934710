"""The models that bench.py knows by name.

Knows nothing about where their files are.
"""

DEMO = "demo"
SMOLLM2 = {"smollm2": [], "smollm2-dense": ["--dense"]}  # name -> options of scripts/smollm2.py
# Of a kind of memory each; random_models.py makes them.
RANDOM = ("random-plain", "random-gemma", "random-qwen3.5")
NAMES = (DEMO, *SMOLLM2, *RANDOM)
