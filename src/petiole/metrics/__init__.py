"""How good, how sure, how far apart: numbers from arrays, knowing nothing of models or runs.

    classification   accuracy, macro accuracy, calibration error, NLL and confusion of one run
    statistics       intervals over runs and images, paired tests, Holm, verdicts, planning
    shift            how far two domains lie apart in a feature space, and a 2-D picture of it

Import from the modules: the package itself imports none, so that nobody pays for what is unused.
"""
