"""From captions to pieces: tokenizers, each of which ends as one vocabulary of printable pieces."""
