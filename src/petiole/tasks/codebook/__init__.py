"""Questions about images for a language model over a codebook: only the encoder learns."""
