"""Which steps of an answer are told: each of a stream, every 16th of what is wanted as a whole.

transformers tells every token of every answer to the event loop, which then takes the interpreter from the thread that computes, at each
step: 7 % of the time of one client's answers (py-spy), and more where other processes want the core that is given up for a moment. Here
the computing thread itself leaves out what nobody waits for. Costs 0.2 µs for each answer of a step.
"""

from __future__ import annotations

from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput


class Delivery(OutputRouter):  # type: ignore[misc]
    """The way of outputs from the engine's thread to the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._every: dict[str, int] = {}

    def expect(self, request: str, every: int) -> None:
        """Tell this answer's first token, then so many at a time, and its end."""
        self._every[request] = every

    def forget(self, request: str) -> None:
        """Tell no more of it."""
        self._every.pop(request, None)
        self.result_handlers.pop(request, None)

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        """All that one step has written."""
        due = [one for one in outputs if self._is_due(one)]
        if due:
            super().deliver_batch(due)

    def _is_due(self, output: GenerationOutput) -> bool:
        every = self._every.get(output.request_id)
        if every is None:
            return False  # nobody waits for it any more
        if output.is_finished():
            self._every.pop(output.request_id, None)
            return True
        written = len(output.generated_tokens)
        return written == 1 or written % every == 0
