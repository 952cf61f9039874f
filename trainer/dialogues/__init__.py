"""Conversations as training data: read, checked, written as tokens by a chat template, packed into windows."""

from trainer.dialogues.dialogues import Dialogues, Encoded
from trainer.dialogues.rows import Bad, Conversation, OnBad, Skipped, conversations

__all__ = ["Bad", "Conversation", "Dialogues", "Encoded", "OnBad", "Skipped", "conversations"]
