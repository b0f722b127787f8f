"""Small experiments on the built-in model: `python -m experiments.<name>`, or `python -m experiments all`.

Each writes `docs/methods/results/<name>.json` and the results section of its pages in `docs/methods/`. All choices of
site, layer, number of units and strength are made on the tune split; the test split is read once.
"""
