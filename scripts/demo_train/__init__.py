"""The parts of scripts/train_demo.py: tokenizer, model, data, evaluation and card of the demo model."""
