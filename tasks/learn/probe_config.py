"""What a trained model is probed for: bias, toxicity, memorisation, privacy. Imports no torch: reading a config costs milliseconds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from infra.storage import LocalPath
from tasks.learn.config import EvalConfig
from tasks.text.canaries import CanaryConfig


class BiasConfig(BaseModel):
    """Log-likelihoods of sentences that differ in a group of people alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    templates: bool = True
    """Ask about traits of groups and pronouns of occupations (tasks/learn/bias_data)."""
    swaps: int = Field(200, ge=0)
    """Held-out sentences that are compared with their counterpart, at most so many of each axis and side; 0: none."""
    crows_pairs: LocalPath | None = None
    """Path of CrowS-Pairs (crows_pairs_anonymized.csv of Nangia et al. 2020, CC BY-SA 4.0); null: not asked."""
    winogender: LocalPath | None = None
    """Path of Winogender's sentences (all_sentences.tsv of Rudinger et al. 2018, MIT); null: not asked."""


class ToxicityProbe(BaseModel):
    """What the model writes after the mention of a group of people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_beginning: int = Field(4, ge=1)
    """Texts for each group and beginning; there are ten beginnings (tasks/learn/bias_data)."""
    max_new_tokens: int = Field(16, ge=1)
    """Length of each text, in tokens."""
    temperature: float = Field(1.0, gt=0)
    """1: drawn as the model says."""


class TextsConfig(BaseModel):
    """What the model writes with nothing before it: where copies of its training texts and addresses are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_texts: int = Field(64, ge=1)
    """How many."""
    max_new_tokens: int = Field(100, ge=1)
    """Length of each, in tokens; cut to what the model's context has room for."""
    temperature: float = Field(1.0, gt=0)
    """1: drawn as the model says; below 1 likelier ones, among which there are more copies."""


class MemorisationConfig(BaseModel):
    """What of the training split the model can say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passages: int = Field(100, ge=1)
    """Passages of each split that the model is asked to complete."""
    prefix_tokens: int = Field(50, ge=1)
    """Tokens of each that it is given (Carlini et al. 2023, arXiv 2202.07646, 3.2); halved with the suffix where a context is too small."""
    suffix_tokens: int = Field(50, ge=1)
    """Tokens that it should not know by heart."""
    copied_tokens: int = Field(50, ge=1)
    """From so many tokens on a run in a written text that is in the training split is a copy (Lee et al. 2022, arXiv 2107.06499)."""


class PrivacyConfig(BaseModel):
    """What the model tells about who was in its training split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = Field(100, ge=2)
    """Documents of each split whose losses are compared."""
    min_tokens: int = Field(16, ge=2)
    """Shorter documents are not asked about."""
    max_tokens: int = Field(128, ge=2)
    """Of longer ones the first so many tokens are, or as many as the model's context holds."""
    lowest_share: float = Field(0.2, gt=0, le=1)
    """The part of a document's tokens that Min-K% looks at: the least likely ones (Shi et al. 2024, arXiv 2310.16789; 20 % was best)."""


class CanaryProbe(CanaryConfig):
    """Which canaries were planted before training (`gristmill canaries`), and with how many others each is compared."""

    references: int = Field(127, ge=1)
    """Secrets of equal form that each is ranked among: exposure is at most log2(references + 1) bits, 7 for 127."""


class ProbeConfig(EvalConfig):
    """The configuration of the step; a part that is null is not probed."""

    max_documents: int | None = Field(2000, ge=1)
    """Held-out documents that are searched for sentences to swap, drawn by the seed. None: all."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Decides which documents are drawn, and what the model writes."""
    bias: BiasConfig | None = BiasConfig()
    """Likelihoods of counterparts."""
    toxicity: ToxicityProbe | None = ToxicityProbe()
    """Texts about groups; a causal model only."""
    texts: TextsConfig | None = TextsConfig()
    """Free texts, for copies (`memorisation`) and addresses (`privacy`); a causal model only."""
    memorisation: MemorisationConfig | None = MemorisationConfig()
    """Completion of training passages; a causal model only."""
    privacy: PrivacyConfig | None = PrivacyConfig()
    """Membership, and addresses in what the model writes; a causal model only."""
    canaries: CanaryProbe | None = None
    """Exposure of planted secrets; null: none were planted."""
    examples: int = Field(8, ge=0)
    """Rows to read beside the figures, of each kind."""
