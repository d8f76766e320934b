"""A generated world: simple scenes, what is said about them, and how they look.

    scene     what there is: shape x colour x texture, how many, how large, in which style
    grammar   what is said: captions and class names, in words that ``words()`` lists
    render    how it looks: a scene and a seed give the same pixels everywhere
    tasks     data sets of class folders: compositions, shapes, colours, counts, in any style

and what can be asked about it, with pictures or without:

    view, clip      one or two groups of things beside or above each other; eight frames in which something happens
    telling         captions, and accounts that leave nothing out
    questions, pairs, clip_questions    in the manner of VQA and GQA, of NLVR2, of TVQA and How2QA
    drawn           ``draw(task, part, index, seed)``: a sample with its pictures
    language        the same as text alone, and its words
    folders         data sets of JSON Lines

Some compositions of shape, colour and texture are *held out*: nothing that is pre-trained on this world sees
them, so that zero-shot and base-to-novel mean something without a network. Everything is a pure function
of seeds.
"""

from petiole.data.world.drawn import QUESTIONS, Drawn, Questions, draw
from petiole.data.world.folders import write_questions
from petiole.data.world.grammar import caption, class_name, words
from petiole.data.world.language import Reading, language_words, readings, statements
from petiole.data.world.render import render
from petiole.data.world.scene import (
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
from petiole.data.world.tasks import TASKS, Task, write_task

__all__ = [
    "COLOURS",
    "QUESTIONS",
    "SHAPES",
    "STYLES",
    "TASKS",
    "TEXTURES",
    "Composition",
    "Drawn",
    "Questions",
    "Reading",
    "Scene",
    "Task",
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
