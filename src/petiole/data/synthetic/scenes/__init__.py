"""Synthetic scenes: simple pictures, sentences about them, and questions.

    scene     what there is: shape x colour x texture, how many, how large, in which style
    grammar   captions, descriptions and class names, in words that ``words()`` lists
    render    how it looks: a scene and a seed give the same pixels everywhere
    tasks     data sets of class folders: compositions, shapes, colours, counts, in any style

and questions, with pictures or without:

    layout, clip    one or two groups of objects beside or above each other; eight frames in which something happens
    questions, pairs, clip_questions    in the manner of VQA and GQA, of NLVR2, of TVQA and How2QA
    samples         ``draw(task, part, index, seed)``: a sample with its pictures; ``write_questions``: JSON Lines
    language        the same as text alone, and its words

Some compositions of shape, colour and texture are *held out*: nothing that is pre-trained on these scenes sees
them, so that zero-shot and base-to-novel mean something without a network. Everything is a pure function
of seeds.
"""

from petiole.data.synthetic.scenes.grammar import caption, class_name, words
from petiole.data.synthetic.scenes.language import ReadingText, language_words, readings, statements
from petiole.data.synthetic.scenes.render import render
from petiole.data.synthetic.scenes.samples import (
    QUESTIONS,
    Questions,
    SceneSample,
    draw,
    write_questions,
)
from petiole.data.synthetic.scenes.scene import (
    COLOURS,
    SHAPES,
    STYLES,
    TEXTURES,
    Composition,
    Scene,
    compositions,
    draw_scene,
    held_out,
)
from petiole.data.synthetic.scenes.tasks import TASKS, ClassFolderTask, write_task

__all__ = [
    "COLOURS",
    "QUESTIONS",
    "SHAPES",
    "STYLES",
    "TASKS",
    "TEXTURES",
    "ClassFolderTask",
    "Composition",
    "Questions",
    "ReadingText",
    "Scene",
    "SceneSample",
    "caption",
    "class_name",
    "compositions",
    "draw",
    "draw_scene",
    "held_out",
    "language_words",
    "readings",
    "render",
    "statements",
    "words",
    "write_questions",
    "write_task",
]
