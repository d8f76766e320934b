"""Questions, captions, pairs and videos for an encoder-decoder: token cross-entropy, VQA accuracy, CIDEr."""
