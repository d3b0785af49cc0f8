"""Votes without end, and says of each when it is kept: to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.serving.votes import WORDING, Consent, Message, Speaker, Vote, VoteStore

store = VoteStore(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    vote = Vote(
        rater=f"rater-{number:012}",
        kind="thumb",
        vote="up",
        models=(Speaker(name="mill"),),
        messages=(Message(role="user", content=f"question {number} " * 200),),
        answers=(f"answer {number} " * 200,),
        consent=Consent(training=True, wording=WORDING),
    )
    print(store.keep(vote).vote_id, flush=True)
