"""Adapters that ship with latentctl, one module for a family of models.

Nothing is imported here: an adapter pays for the libraries it needs when it is first used.
"""
