"""Measuring what a model can do: held-out cases for the model in the box, and how they count."""
