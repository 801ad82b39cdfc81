"""What is known of memory once it ran out in an update."""

from dataclasses import dataclass

REMEDIES = (
    "shorten responses (tree.depth, tree.segment_len) or prompts (data.max_prompt_len), or set "
    "train.gradient_checkpointing, train.autocast or lora.rank"
)


@dataclass
class MemoryLimit:
    """What is known since memory ran out: the most tokens of a forward, None before; and how often it did."""

    max_tokens: int | None = None
    num_oom: int = 0

    def lower(self, tried: int, longest: int, reason: str) -> None:
        """Set the limit to half of what was tried, but at least to the longest trajectory, which cannot be split.

        reason: what the allocator said. Raises MemoryError, with the settings to change, if that was tried already.
        """
        self.num_oom += 1
        if tried <= longest:
            raise MemoryError(
                f"train.max_tokens_per_micro_batch: out of memory at {tried} tokens, and the longest trajectory has "
                f"{longest}; {REMEDIES} ({reason})"
            )
        self.max_tokens = max(tried // 2, longest)
