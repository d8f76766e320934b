"""Label a folder of images, and see at every click what a classifier would make of it."""
