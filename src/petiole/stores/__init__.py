"""Object stores: addresses in the place of local paths.

Reading order: `address`; `base` (the face of a store), `objects` and `hub` (the stores); `local_cache` (what was fetched, of
bounded size); `pointer` (an image that is fetched when it is read); then the one boundary where an address becomes a local path
and the other way round: `mount` (to read), `publish` (to write), `mirror` (a feature cache), `known` (what others need not fetch).
"""
