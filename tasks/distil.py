"""distil: train a smaller model on token shards with a larger one beside it, whose probabilities it learns, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra import storage
from infra.dataset import ShardSet
from infra.steps import Output, step
from models import presets
from tasks.learn.compress_config import DistilConfig, Teacher
from tasks.learn.config import MODEL
from tasks.learn.tokens import check_tokeniser
from tasks.pretrain import train

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import training  # noqa: F401


def files_read(config: DistilConfig) -> dict[str, str]:
    """The weights that the student begins with are part of the recipe."""
    return dict(presets.digests(config.model))


@step(schema="model", fingerprint=files_read)
def distil(teacher: ShardSet, tokens: ShardSet, config: DistilConfig, out: Output) -> None:
    """Train the student of `config.model` as `pretrain` would, with the teacher's probabilities as part of the loss.

    A student may begin as a part of its teacher: `prune` by width or depth makes such a part, and `model.from_checkpoint` names it.

    Raises:
        InputError: the tokens are of another tokeniser than the teacher's, or the student sees more at once than the teacher.
    """
    check_tokeniser("distil", teacher, tokens)
    facts = teacher.manifest().facts
    with storage.local_folder(teacher.file(MODEL)) as folder:
        taught_by = {"teacher": teacher.version, "teacher digest": teacher.digest}
        train(tokens, config.training, out, Teacher(folder=folder, lesson=config.lesson), taught_by)
    out.facts["before.num_parameters"] = facts["num_parameters"]
    out.facts["after.num_parameters"] = out.facts["num_parameters"]
