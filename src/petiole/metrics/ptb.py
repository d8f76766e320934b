"""Words of a caption as the Penn Treebank cuts them, without Java.

coco-caption cuts with Stanford's ``PTBTokenizer -lowerCase`` (3.4.1) and drops a list of punctuation
marks; this is the same for what captions contain, written as one scan of the text and one cut of each
word's clitics:

    scan    numbers (5:30, 3,000.50), words with - / _ inside, letters with dots (p.m., u.s.), abbreviations
            that keep their dot, runs of one kind of mark (... -- ?!), then any other mark alone
    clitic  don't → do n't,  man's → man 's,  cannot → can not,  gonna → gon na
    drop    quotes, . ? ! , : ; and runs of dots or dashes

Two quirks are kept, since they move the scores: ``?!`` and ``!!`` are words, for the reference drops single
marks only; and so are brackets, for it looks for ``-LRB-`` after lower case has made it ``-lrb-``.

Agreement, measured against the reference: all of 795 COCO captions, all of 1,979 sentences of NLVR, 59,998
of 60,000 questions and 30,736 of 30,806 different answers of VQA v2 give equal words. The rest are mostly
telephone numbers, "1 1/2" and "-15", which the reference keeps as one word.

Reference: coco-caption's PTBTokenizer (Java, -lowerCase), with which the COCO captions are scored.
"""

from __future__ import annotations

import re

_DROPPED = re.compile(r"""\.+|-+|['"`?!,:;]""")
_WRITTEN = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "£": "#",
    "€": "$",
}
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "..."})
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|st|jr|sr|vs|etc|inc|co|corp|ltd|no|ave|prof|gen|jan|feb|aug|sept|oct|nov|dec"
)
_SCAN = re.compile(
    rf"""
      (?:https?://|www\.)[^\s"<>]*[^\s"<>.,;:!?)\]']       # the address of a page
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                         # and of a person
    | (?:[a-z]\.){{2,}}                                    # p.m.  u.s.
    | \b(?:{_ABBREVIATIONS})\.
    | '\d0s\b | '(?:tis|twas)\b | '(?:s|m|d|ll|re|ve)\b | 'n'   # '90s  's  rock 'n' roll
    | (?<!\w)[.:]\d+ | \d+(?:[.,]\d+)*(?::\d+)+(?:\.\d+)? | \d+(?:,\d+)*(?:\.\d+)+   # .50  2:13:29  3,000.50
    | \d+(?:[.,/]\d+)*[^\W_]*(?:[-/_][^\W_]+)*             # 12/25/2010  3rd  5-year-old
    | [a-z]&[a-z]\b                                        # r&b
    | [^\W_]+?n't(?:'ve)?\b                                # don't, its clitic still on
    | [^\W_]+(?:'(?!n')[^\W\d_]+|[-/_][^\W_]+|\.[^\W\d_]+)*
    | \.+ | -+ | [!?]+ | _+ | \S
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|ll|re|ve))$")
_JOINED = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
    "'tis": "'t is",
    "'twas": "'t was",
    "y'all": "y' all",
}


def tokenise(text: str) -> list[str]:
    """Return the words of ``text``: lower case, PTB's cuts, punctuation dropped.

    ``"A man's dog isn't here."`` → ``["a", "man", "'s", "dog", "is", "n't", "here"]``.
    """
    words = _SCAN.findall(text.lower().translate(_QUOTES))
    return [part for word in words if not _DROPPED.fullmatch(word) for part in _parts(word)]


def _parts(word: str) -> list[str]:
    if word in _JOINED:
        return _JOINED[word].split()
    clitic = _CLITIC.search(word)
    if clitic:
        return [*_parts(word[: clitic.start()]), clitic.group()]
    return [_WRITTEN.get(word, word)]
