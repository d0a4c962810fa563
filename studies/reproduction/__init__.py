"""The page `docs/reproduction.md`: the paper's claims, what was measured, and whether they hold.

Generated from the runs' own records by `python -m studies.reproduction`. Each section
is a module with a function `section`; `generate.SECTIONS` lists them.
"""
