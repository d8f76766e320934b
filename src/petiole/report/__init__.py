"""Tables, plots, diagnosis and one self-contained HTML page: views over records.

    tables      a comparison folder to numbers, and the numbers to Markdown, CSV, a terminal, a sentence
    diagnosis   image vectors before and after: how far apart the domains lie, and a map of them
    flips       test images whose prediction changed from one method to another
    plots       figures as inline SVG
    page        all of it in one file

Every number comes from a run folder's records; nothing here runs a model.
"""
