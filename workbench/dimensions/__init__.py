"""Which residual dimensions are critical for a domain: mergeable statistics and the criteria that select dimensions.

Nothing here runs a model; everything is computed from activations or pooled rows that are handed in.
"""
