"""Methods whose classifier is made of class names."""
