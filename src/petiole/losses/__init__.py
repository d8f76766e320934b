"""Losses that know no method: plain functions of tensors, with the equation in the docstring.

classification   cross-entropy over a batch of two domains
contrastive      SupCon, cross-domain SupCon, prototype InfoNCE, NT-Xent (forms c1 … c4)
"""
