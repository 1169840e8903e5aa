"""The networks: an encoder, an attention, a decoder, and the captioning model made of them."""
