"""Ways to adapt a trained classifier to each test image; a file each."""
