"""Domain corpora and contrast pairs, from what ships, from text files, JSON lines and Hugging Face datasets.

Every source becomes the same list of `Prompt`: long documents cut into passages, repeated passages dropped, each domain
split into *identify*, *tune* and *test*.
"""

from workbench.corpus.loading import (
    BUILTIN_DOMAINS,
    NEUTRAL,
    corpus_hash,
    load_corpus,
    load_hf_dataset,
    load_pairs,
    neutral_prompts,
)
from workbench.corpus.passages import MINIMUM_PASSAGES, cut_passages
from workbench.corpus.rows import CorpusError
from workbench.corpus.splits import IDENTIFY_SHARE, TUNE_SHARE, draw_some, draw_splits

__all__ = [
    "BUILTIN_DOMAINS",
    "IDENTIFY_SHARE",
    "MINIMUM_PASSAGES",
    "NEUTRAL",
    "TUNE_SHARE",
    "CorpusError",
    "corpus_hash",
    "cut_passages",
    "draw_some",
    "draw_splits",
    "load_corpus",
    "load_hf_dataset",
    "load_pairs",
    "neutral_prompts",
]
