"""Images, texts and labels to data sets: inputs, readers, splits, transforms and the leak check.

Reading order: `image` and `memory` (one image), `dataset` and `text_dataset` (many), `inputs` (whatever
holds them), `readers` and `sources` (where they lie), `splits` (who gets which), `checks` (what is wrong with
them, who must not see which), `preprocessing` (what the backbone sees), `features` (what was computed before),
`synthetic` (what is drawn).
"""
