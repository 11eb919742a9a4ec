"""A measurement as one folder: numbers, tables, pictures, and a page that needs no other file.

``report`` says what a report is made of, ``folder`` writes it, ``markdown`` and ``page`` give the
tables their two forms, ``pictures`` draws, and ``provenance`` names versions and models. Nothing
here knows what was measured, and nothing imports torch.
"""
