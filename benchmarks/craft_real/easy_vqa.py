"""A part of easy-VQA in the words of the board: what shape and what colour the one thing of each picture has.

    pip download easy-vqa==1.0 --no-deps && unzip easy_vqa-1.0-py3-none-any.whl
    python benchmarks/craft_real/easy_vqa.py easy_vqa/data OUT

easy-VQA (V. Zhou, 2019): 64 x 64 pixels, one flat shape each, 4,000 + 1,000 pictures. The language models of ``petiole/tiny-lvlm`` know neither
yes and no nor all of its words, so only two kinds of question are taken, and four names are others: CRAFT can only move codes, never teach a word.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

KEPT = {"train": 1000, "test": 500}
"""Pictures of each part, the first in the published order; one question or two each."""
WORDS = {"rectangle": "bar", "teal": "cyan", "brown": "orange", "black": "magenta"}
"""Their name -> a word that the models know; all other names are known."""
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("red", "green", "blue", "yellow", "gray", "teal", "brown", "black")
ASKED = {"shape": "what shape is it ?", "color": "what color is it ?"}


def facts_of(questions: list[tuple[str, str, int]]) -> dict[int, dict[str, str]]:
    """Picture -> its shape and colour in the board's words, as far as questions of what it is tell them or their answers do."""
    found: dict[int, dict[str, str]] = {}
    for text, answer, picture in questions:
        for word in (*text.rstrip("?").split(), answer) if text.startswith("what") else ():
            if word in SHAPES or word in COLOURS:
                kind = "shape" if word in SHAPES else "color"
                found.setdefault(picture, {})[kind] = WORDS.get(word, word)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for part, pictures in KEPT.items():
        asked = json.loads((args.data / part / "questions.json").read_text(encoding="utf-8"))
        (args.out / "images").mkdir(parents=True, exist_ok=True)
        lines = []
        for picture, facts in sorted(facts_of(asked).items())[:pictures]:
            name = f"{part}-{picture}.png"
            shutil.copy(args.data / part / "images" / f"{picture}.png", args.out / "images" / name)
            both = len(facts) == len(ASKED)
            caption = {"caption": f"a {facts['color']} {facts['shape']} ."} if both else {}
            lines += [
                json.dumps({"image": name, "question": text, "answer": facts[kind], **caption})
                for kind, text in ASKED.items()
                if kind in facts
            ]
        (args.out / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
