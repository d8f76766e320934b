"""One paper, one file: the equation, a frozen config, where the layers go, which losses are added."""
