"""What is asked of a model that reads and writes text: how a sample is put, learned and scored.

    task        a task as data: text format, limits, loss, decoding, score
    scoring     predictions and samples to metrics in percent
    registry    the tasks by name
    training    which target a sample teaches, and the majority answer as a baseline

Import from the modules. Models and layers are unknown here.
"""
