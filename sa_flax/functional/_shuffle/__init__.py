"""Shuffle attention, by subject; its face is `sa_flax.functional`.

    parts.py        parameters, gates, norm, shuffle, fold, and their composition: the textbook form
    cpu.py          what XLA's CPU compiler must be told
    passes.py       the fused form's passes over the map: moments, forward, backward
    derivative.py   those passes as one differentiable function
    api.py          `shuffle_attention`: checks, and the choice between the forms

Each imports from those above it only.
"""
