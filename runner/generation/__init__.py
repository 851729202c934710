"""From a prompt's token ids to an answer's: prefill, decode, sampling."""
