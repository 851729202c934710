"""Text in, text out: the tokenizer, and what turns token ids into text that is safe to send."""
