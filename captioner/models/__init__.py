"""The networks: encoder, attention, decoder and the captioning model that combines them; and their checkpoints."""
