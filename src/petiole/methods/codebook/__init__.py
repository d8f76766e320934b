"""CRAFT and its rivals: adaptations of a vision-language model over a codebook."""
