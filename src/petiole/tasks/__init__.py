"""What a sample means, its loss, its score: classification, text about images, questions over a codebook."""
