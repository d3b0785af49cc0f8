import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from infra.errors import InputError
from infra.ids import text_digest
from models import presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.learn import distillation, tokens, trainer
from tasks.learn.compress_config import DistilConfig, Lesson, Teacher
from tasks.learn.config import TrainConfig
from tasks.learn.tokens import TokenShard
from tasks.learn.trainer import TrainingError, TrainResult

WORDS = [first + rest for first in "bdfgklmprst" for rest in ("ana", "eto", "ivu")]
FOLLOWERS, HELD_OUT = 8, 30
SHAPE: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 64}
STUDENT = TrainConfig(
    model=ModelConfig(**SHAPE, context_length=32),
    max_steps=120,
    warmup_steps=5,
    batch_size=4,
    learning_rate=1e-2,
    eval_every_steps=30,
    eval_batches=12,
    checkpoint_every_steps=200,
    keep="best",
    num_threads=1,
    device="cpu",
    precision="fp32",
)


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 30),
    vocab=st.integers(2, 20),
    chunk=st.integers(1, 40),
    share=st.floats(0.05, 1),
    temperature=st.floats(1, 4),
    with_bias=st.booleans(),
    scale=st.floats(1e-2, 10),
)
def test_chunks_give_the_gradients_of_the_formula(
    count: int, vocab: int, chunk: int, share: float, temperature: float, with_bias: bool, scale: float
) -> None:
    draw = torch.Generator().manual_seed(count * 31 + vocab)
    drawn = [torch.randn(count, 8, generator=draw), torch.randn(vocab, 8, generator=draw), torch.randn(vocab, generator=draw)]
    targets, taught = torch.randint(vocab, (count,), generator=draw), torch.randn(count, 6, generator=draw)
    teacher = nn.Linear(6, vocab, bias=with_bias).requires_grad_(False)
    mine, theirs = ([one.clone().requires_grad_() for one in drawn] for _ in range(2))
    bias = (mine[2], theirs[2]) if with_bias else (None, None)
    lesson = Lesson(share=share, temperature=temperature)
    back, nats, likeliest = distillation._TaughtCrossEntropy.apply(
        mine[0], mine[1], bias[0], targets, taught, teacher, lesson, scale, chunk, torch.float32
    )
    back.backward()
    logits = functional.linear(theirs[0], theirs[1], bias[1])
    softened = functional.log_softmax(logits / temperature, -1)
    distance = functional.kl_div(softened, (teacher(taught) / temperature).softmax(-1), reduction="sum")
    hard = functional.cross_entropy(logits, targets, reduction="sum")
    (scale * ((1 - share) * hard + share * temperature**2 * distance)).backward()
    assert torch.allclose(nats, functional.cross_entropy(logits, targets, reduction="none"), atol=1e-5)
    assert torch.equal(likeliest, logits.argmax(-1))
    for one, other in list(zip(mine, theirs, strict=True))[: 3 if with_bias else 2]:
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-4 * scale * count, rtol=1e-3)


def told(num_documents: int, seed: int) -> pa.Table:
    """Documents of a language in which each word has its followers with their chances, which are the same for every seed."""
    grammar, chance = random.Random(7), random.Random(seed)
    followers = {word: (grammar.sample(WORDS, FOLLOWERS), [grammar.random() ** 2 for _ in range(FOLLOWERS)]) for word in WORDS}
    texts = []
    for _ in range(num_documents):
        words = [chance.choice(WORDS)]
        while len(words) < 40:
            words += chance.choices(*followers[words[-1]])
        texts.append(" ".join(words))
    return pa.table({"doc_id": [text_digest(text) for text in texts], "source": ["s"] * len(texts), "text": texts})


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("words"))
    tokeniser.save(tokeniser.train_bpe(told(100, 1)["text"].to_pylist(), TokeniserConfig(vocab_size=400)), folder)
    return folder


def shard(num_documents: int, seed: int, words: str) -> TokenShard:
    return TokenShard(*tokens.encode_shard(told(num_documents, seed), words))


def train(
    config: TrainConfig, num_documents: int, folder: Path, words: str, teacher: Teacher | None = None, until: int = 0
) -> TrainResult:
    def cut(step: int) -> None:
        if step == until:
            raise KeyboardInterrupt

    seen, held_out = shard(num_documents, 2, words), shard(HELD_OUT, 3, words)
    how = {"tokeniser_folder": words, "on_log": lambda line: None, "on_step": cut}
    return trainer.train([seen], [held_out], config, folder, teacher=teacher, **how)


@pytest.fixture(scope="module")
def teacher(words: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has read many times as much as the students will."""
    config = STUDENT.model_copy(
        update={"max_steps": 200, "batch_size": 8, "model": ModelConfig(**{**SHAPE, "num_layers": 2}, context_length=32)}
    )
    return train(config, 2000, tmp_path_factory.mktemp("teacher"), words).model_folder


@pytest.mark.soak
def test_a_student_learns_more_with_its_teacher_and_nothing_from_one_that_knows_nothing(
    teacher: Path, words: str, tmp_path: Path
) -> None:
    lesson = Lesson(share=0.9, temperature=1.0)
    alone = train(STUDENT, 10, tmp_path / "alone", words).valid_loss
    taught = train(STUDENT, 10, tmp_path / "taught", words, Teacher(folder=str(teacher), lesson=lesson)).valid_loss
    fool = tmp_path / "fool"
    presets.build(STUDENT.model, tokeniser.roles(words), seed=9).save_pretrained(fool)
    for file in Path(words).iterdir():
        (fool / file.name).write_bytes(file.read_bytes())
    fooled = train(STUDENT, 10, tmp_path / "fooled", words, Teacher(folder=str(fool), lesson=lesson)).valid_loss
    assert taught < alone - 0.3 < fooled


def test_a_student_goes_on_bit_for_bit_where_it_was_cut_off_and_only_with_its_teacher(
    teacher: Path, words: str, tmp_path: Path
) -> None:
    taught = Teacher(folder=str(teacher), lesson=Lesson())
    short = STUDENT.model_copy(update={"max_steps": 14, "checkpoint_every_steps": 5})
    whole = train(short, 20, tmp_path / "whole", words, taught)
    with pytest.raises(KeyboardInterrupt):
        train(short, 20, tmp_path / "cut", words, taught, until=8)
    with pytest.raises(TrainingError, match="made with another lesson"):
        train(short, 20, tmp_path / "cut", words, Teacher(folder=str(teacher), lesson=Lesson(share=0.1)))
    on = train(short, 20, tmp_path / "cut", words, taught)
    mine, theirs = (load_file(one.model_folder / "model.safetensors") for one in (on, whole))
    assert on.train_loss == whole.train_loss and all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_teacher_that_sees_less_or_other_words_is_refused(teacher: Path, words: str, tmp_path: Path) -> None:
    longer = STUDENT.model_copy(update={"model": ModelConfig(**SHAPE, context_length=64)})
    with pytest.raises(InputError, match="the teacher sees 32 tokens at once"):
        train(longer, 20, tmp_path / "long", words, Teacher(folder=str(teacher), lesson=Lesson()))
    with pytest.raises(InputError, match=r"the teacher has .* tokens and the student 7"):
        distillation.teacher_of(str(teacher), 7, 32, "cpu")
    with pytest.raises(ValueError, match="label_smoothing"):
        DistilConfig(label_smoothing=0.1)
