"""A generated world: simple scenes, what is said about them, and how they look.

    scene     what there is: shape x colour x texture, how many, how large, in which style
    grammar   what is said: captions and class names, in words that ``words()`` lists
    render    how it looks: a scene and a seed give the same pixels everywhere
    tasks     data sets of class folders: compositions, shapes, colours, counts, in any style

Some compositions of shape, colour and texture are *held out*: nothing that is pre-trained on this world sees
them, so that zero-shot and base-to-novel mean something without a network. Everything is a pure function
of seeds.
"""

from petiole.data.world.grammar import caption, class_name, words
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
    "SHAPES",
    "STYLES",
    "TASKS",
    "TEXTURES",
    "Composition",
    "Scene",
    "Task",
    "caption",
    "class_name",
    "compositions",
    "draw_scene",
    "held_out",
    "render",
    "words",
    "write_task",
]
